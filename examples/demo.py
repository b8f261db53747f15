"""Talk to the talker that ships (`make demo`): spoken and typed questions, and what a recogniser hears.

Everything runs in one process, so that the models are loaded once; beside each question stands the command that does
the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_parts import HERE, console, heading, show

from anytalk.errors import AnytalkError

TALKER = Path(__file__).parent / "talkers" / "smollm2-135m-assistant"
QUESTIONS: list[Path | str] = [
    HERE / "question.wav",  # flite's voice slt: What is the capital of Japan?
    HERE / "france.wav",  # flite's voice rms, which was never heard in training: What is the capital of France?
    HERE / "find.wav",  # rms: What word means the opposite of find?
    "What is the capital of Italy?",
    "How many legs does a spider have?",
]
READ = "Good morning, it is seven o'clock and the sun is shining."


@dataclass(frozen=True)
class Exchange:
    """A question and what became of it.

    Attributes:
        asked: The question's text, or the name of its sound file.
        text: What the talker writes.
        heard: What Whisper base hears of what it says.
        wer: Word error rate between the two.
        first_sound_s: From the question to the first sound.
        real_time_factor: Time to make the answer, in its own lengths.
    """

    asked: str
    text: str
    heard: str
    wer: float
    first_sound_s: float
    real_time_factor: float


def main() -> None:
    """Ask, listen, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--talker", type=Path, default=TALKER)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="Folder for the answers.")
    arguments = parser.parse_args()
    # The judge and the weights are local: nothing may wait for a hub.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    try:
        demo(arguments.talker, arguments.out)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


def demo(folder: Path, out: Path) -> None:
    """Ask everything; write the answers' sound and spectrograms; print the table."""
    from anytalk.model.talker import load_talker
    from anytalk.plugins.components import PartRef
    from anytalk.plugins.registry import default_registry

    console.print(f"Loading {folder} ...", soft_wrap=True)
    talker = load_talker(folder)
    judge = default_registry().build("transcriber", PartRef(name="whisper"))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    heading("1. Ask, by voice and by keyboard")
    done = []
    for number, question in enumerate(QUESTIONS, start=1):
        wave = out / f"answer-{number}.wav"
        by_voice = isinstance(question, Path)
        show("talk", folder, *([question] if by_voice else ["--text", question]), "-o", wave)
        done.append(exchange(talker, judge, question, wave, "A1A2" if by_voice else "T1A2"))
    heading("2. Let it read something aloud")
    show("talk", folder, "--say", READ, "-o", out / "read.wav")
    done.append(exchange(talker, judge, READ, out / "read.wav", "T1A1"))
    heading("3. What an independent recogniser (Whisper base, which had no part in the training) hears")
    console.print(summary(done))
    console.print(
        f"""
  sound and spectrograms   {out}
  talk to it               .venv/bin/anytalk talk {folder} --interactive
  its model card           {folder / "README.md"}: how it was trained, what it was measured at, what it can't do
  train one yourself       make demo-train

  The answers' words are the language model's own, right or wrong: it has 135 million parameters, and attaching ears
  and a voice left it untouched, bit for bit. The voice is one synthetic voice through a codec of 0.8 kbit/s.""",
        soft_wrap=True,
    )


def exchange(talker, judge, question: Path | str, path: Path, task: str) -> Exchange:  # type: ignore[no-untyped-def]
    """Ask one question in a conversation of its own and listen to the answer."""
    from anytalk.decode.session import Session
    from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
    from anytalk.evaluate.spectrogram import draw_spectrogram
    from anytalk.evaluate.wer import word_error_rate
    from anytalk.grid.audio import read_wave, write_wave

    rate_hz = talker.codec.sample_rate_hz
    asked = (
        {"wave": read_wave(question, talker.model.encoder.sample_rate_hz)}
        if isinstance(question, Path)
        else {"text": question}
    )
    pieces, end = [np.zeros(0, dtype=np.float32)], None
    for event in Session(talker).ask(**asked, task=task):
        if isinstance(event, TextDelta) and task != "T1A1":
            console.print(event.text, end="")
        elif isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            end = event
    assert end is not None
    console.print("\n")
    wave = np.concatenate(pieces)
    write_wave(path, wave, rate_hz)
    draw_spectrogram(path.with_suffix(".png"), wave, rate_hz, end.text)
    heard = judge.transcribe(wave, rate_hz)
    return Exchange(
        question.name if isinstance(question, Path) else question,
        end.text,
        heard,
        word_error_rate([end.text], [heard]).wer,
        end.first_audio_s or 0.0,
        end.wall_s / max(end.audio_s, 1e-3),
    )


def summary(done: list[Exchange]):  # type: ignore[no-untyped-def]
    """The exchanges as a table."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False)
    for column in ("asked", "it writes", "Whisper hears", "errors", "first sound", "real time"):
        found.add_column(column, justify="right" if column in ("errors", "first sound", "real time") else "left")
    for e in done:
        figures = (f"{e.wer:.0%}", f"{e.first_sound_s:.2f} s", f"{e.real_time_factor:.2f}")
        found.add_row(e.asked, e.text, e.heard, *figures)
    return found


if __name__ == "__main__":
    main()
