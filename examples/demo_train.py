"""The main job on real weights, in minutes on two CPU cores: attach, voice a data set, train, talk (`make demo-train`).

Each step is a command that you could type; it is printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from demo_parts import EAR, HERE, MODEL, QUESTION, SYSTEM, anytalk, console, heading

from anytalk.evaluate.spectrogram import draw_spectrogram
from anytalk.evaluate.wer import word_error_rate
from anytalk.grid.audio import read_wave
from anytalk.model.config import read_config

QUESTION_TEXT = "What is the capital of Japan?"
UNSEEN = "The weather is fine today."


def main() -> None:
    """Run the demo from an empty folder to a spoken answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-train-out"), help="Folder for everything that is made.")
    parser.add_argument("--steps", type=int, help="Steps of both stages instead of the recipe's (for a quick look).")
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    talker, data, answer = out / "talker", out / "data", out / "answer.wav"
    began = time.perf_counter()

    heading("1. Attach ears and a voice to a language model that has none")
    anytalk(
        "attach", MODEL, "-o", talker, "--encoder-model", EAR, "--input-adapter", "stack",
        "--set", f"grid.system={SYSTEM}", "--set", "output_adapter.options.num_blocks=4",
    )  # fmt: skip

    heading("2. Make a small set of spoken questions and answers; the answers are the model's own words")
    # The codec knows the voice of hibari-tts alone.
    anytalk(
        "voice", HERE / "questions.jsonl", "-o", data, "--answers-from", talker,
        "--question-voices", "all", "--speeds", "1.0", "--answer-synthesizer", "hibari",
    )  # fmt: skip

    heading("3. Train the adapters; the language model is frozen")
    steps = ["--set", f"all.steps={arguments.steps}"] if arguments.steps else []
    anytalk("train", talker, "--data", data / "manifest.jsonl", "--recipe", "demo", *steps)

    heading(f"4. Ask by voice: “{QUESTION_TEXT}”, in a voice that was not in the training recordings")
    text_file = out / "answer.txt"
    anytalk("talk", talker, QUESTION, "-o", answer, "--out-text", text_file)
    said = text_file.read_text(encoding="utf-8").strip()

    heading("5. What an independent recogniser (Whisper base, which had no part in the training) hears")
    heard = anytalk("transcribe", answer, capture=True)
    console.print(f"  the model's text   {said}\n  Whisper hears      {heard}", soft_wrap=True)
    console.print(f"  word error rate    {word_error_rate([said], [heard]).wer:.0%}")

    heading("6. To be honest: a sentence that was not in the training set")
    unseen = out / "unseen.wav"
    anytalk("talk", talker, "--say", UNSEEN, "-o", unseen)
    heard_unseen = anytalk("transcribe", unseen, capture=True)
    console.print(f"  asked to say       {UNSEEN}\n  Whisper hears      {heard_unseen or '(no words)'}")

    report(talker, data, answer, said, began)
    if arguments.steps:
        console.print(f"\n  (Trained for {arguments.steps} steps only: the recipe's own steps are what makes it talk.)")


def report(talker: Path, data: Path, answer: Path, said: str, began: float) -> None:
    """What was made and where it lies, what it can and can't do."""
    wave = read_wave(answer, sample_rate_hz := 16_000)
    spectrogram = answer.with_name("spectrogram.png")
    draw_spectrogram(spectrogram, wave, sample_rate_hz, said)
    config = read_config(talker)
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = len({row["answer_text"] for row in rows if "answer_text" in row})
    heading("Done")
    console.print(f"  answer             {answer}\n  spectrogram        {spectrogram}", soft_wrap=True)
    for stage in config.history:
        console.print(
            f"  stage {stage.name:<12} {', '.join(stage.trained)}: "
            f"loss {stage.loss_first:.2f} -> {stage.loss_last:.2f} in {stage.seconds:.0f} s\n"
            f"  {'':<18} curve {talker / str(stage.curve)}",
            soft_wrap=True,
        )
    console.print(
        f"""
  What a few minutes of training can do: the talker hears {answers} questions,
  often in voices it never heard too, and speaks the {answers} answers that it was
  trained on, in its language model's own words. The language model itself is
  untouched: typed questions get the same text answers as before, bit for bit.

  What they can't: pronounce other sentences (see 6.), hear other questions, hear
  every voice, or never stumble over a word. That takes hours of speech:
  docs/quickstart.md. The codec `heart` speaks in one voice, the one that the answers were made in.

  Talk to it:  .venv/bin/anytalk talk {talker} --interactive
  All of it took {(time.perf_counter() - began) / 60:.1f} minutes.""",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
