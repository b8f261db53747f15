"""Give a language model ears and a voice, without any training, and talk to it (`make demo`).

Spoken and typed questions, a text read aloud, a conversation of two turns; what a recogniser hears of the answers; and
the same spoken questions through a cascade of Whisper, the same model and the engine that taught the voice.

Everything runs in one process, so that the models are loaded once; each step names the command that does the
same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from demo_parts import EAR, HERE, MODEL, SYSTEM, console, heading, show

from anytalk.errors import AnytalkError

if TYPE_CHECKING:
    from anytalk.decode.session import Session
    from anytalk.model.talker import Talker

VOICE = "heart"
SPOKEN = [
    HERE / "question.wav",  # flite's voice slt: What is the capital of Japan?
    HERE / "france.wav",  # flite's voice rms: What is the capital of France?
    HERE / "weasels.wav",  # Allison Smith, a person (see NOTICE): Weasels have eaten our phone system.
]
TYPED = ["What is the capital of Italy?", "How many legs does a spider have?"]
READ = "Good morning! It is 7:45, the sun is shining, and your train leaves on May 3rd at 9:10."
TURNS = [HERE / "france.wav", "And what is it famous for?"]


@dataclass(frozen=True)
class Exchange:
    """A question and what became of it.

    Attributes:
        asked: The question's text, or the name of its sound file.
        text: What is written.
        heard: What Whisper base hears of what is said.
        wer: Word error rate between the two.
        first_sound_s: From the question's end to the first sound.
        real_time_factor: Time to make the answer, in its own lengths.
    """

    asked: str
    text: str
    heard: str
    wer: float
    first_sound_s: float
    real_time_factor: float


def main() -> None:
    """Attach, ask, listen, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="Any causal language model, as `anytalk attach` takes it.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="Folder for the talker and its answers.")
    arguments = parser.parse_args()
    # The judge and the weights are local: nothing may wait for a hub.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    try:
        demo(arguments.model, arguments.out)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


def demo(model: str, out: Path) -> None:
    """Make the talker; ask everything; write the answers' sound and spectrograms; print the tables."""
    shutil.rmtree(out, ignore_errors=True)
    folder = out / "talker"
    heading("1. Ears and a voice for a language model; nothing is trained")
    show(
        "attach",
        model,
        "-o",
        folder,
        "--voice",
        VOICE,
        "--ears",
        "transcript",
        "--ears-model",
        EAR,
        "--set",
        f"grid.system={SYSTEM}",
    )
    talker = attached(model, folder)
    judge = built("transcriber", "whisper")
    heading("2. Ask, by voice and by keyboard")
    done = []
    for number, question in enumerate([*SPOKEN, *TYPED], start=1):
        wave = out / f"answer-{number}.wav"
        by_voice = isinstance(question, Path)
        show("talk", folder, *([question] if by_voice else ["--text", question]), "-o", wave)
        done.append(exchange(new_session(talker), judge, question, wave, "A1A2" if by_voice else "T1A2"))
    heading("3. A conversation of two turns")
    show("talk", folder, "--interactive")
    session = new_session(talker)
    for number, question in enumerate(TURNS, start=1):
        wave = out / f"turn-{number}.wav"
        done.append(exchange(session, judge, question, wave, "A1A2" if isinstance(question, Path) else "T1A2"))
    heading("4. Let it read something aloud")
    show("talk", folder, "--say", READ, "-o", out / "read.wav")
    done.append(exchange(new_session(talker), judge, READ, out / "read.wav", "T1A1"))
    heading("5. What an independent recogniser (Whisper base, which had no part in the training) hears")
    console.print(summary(done))
    heading("6. The same spoken questions through a cascade: Whisper, the same model, hibari-tts, one after the other")
    console.print(summary(cascade(talker, judge, out)))
    console.print(
        f"""
  sound and spectrograms   {out}
  talk to it               .venv/bin/anytalk talk {folder} --interactive
  a page to talk to        .venv/bin/anytalk serve {folder}
  another model            make demo MODEL=Qwen/Qwen2.5-0.5B-Instruct   (a hub id, a folder, a .gguf file)
  train one yourself       make demo-train

  The answers' words are the language model's own, right or wrong: attaching ears and a voice left it untouched, bit
  for bit. The voice is that of hibari-tts, through a codec of 0.7 kbit/s.""",
        soft_wrap=True,
    )


def attached(model: str, folder: Path) -> Talker:
    """The model with a voice and ears."""
    from anytalk.model.attach import attach

    ears = json.dumps({"name": "transcript", "options": {"model": EAR}})
    return attach(model, folder, voice=VOICE, assignments=[f"ears={ears}", f"grid.system={SYSTEM}"])


def built(kind: str, name: str) -> Any:
    """A part by its name."""
    from anytalk.plugins.components import PartRef
    from anytalk.plugins.registry import default_registry

    return default_registry().build(kind, PartRef(name=name))


def new_session(talker: Talker) -> Session:
    """A conversation that has not begun."""
    from anytalk.decode.session import Session

    return Session(talker)


def asked_of(talker: Talker, question: Path | str) -> dict[str, Any]:
    """The question as a session takes it."""
    from anytalk.grid.audio import read_wave

    if isinstance(question, str):
        return {"text": question}
    assert talker.model.listener is not None
    return {"wave": read_wave(question, talker.model.listener.sample_rate_hz)}


def exchange(session: Session, judge: Any, question: Path | str, path: Path, task: str) -> Exchange:
    """Ask one question and listen to the answer."""
    from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta

    talker, end = session.talker, None
    pieces = [np.zeros(0, dtype=np.float32)]
    for event in session.ask(**asked_of(talker, question), task=task):
        if isinstance(event, TextDelta) and task != "T1A1":
            console.print(event.text, end="")
        elif isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            end = event
    assert end is not None
    console.print("\n")
    wave, rate_hz = np.concatenate(pieces), talker.codec.sample_rate_hz
    return judged(judge, question, end.text, (wave, rate_hz), path, (end.first_audio_s or 0.0, end.wall_s))


def cascade(talker: Talker, judge: Any, out: Path) -> Iterable[Exchange]:
    """Ask the spoken questions of three programs in a row; each sentence is spoken when it is written."""
    from anytalk.decode.telling import TextDelta

    engine = built("synthesizer", "hibari")
    sentences = engine.sentences
    for number, question in enumerate(SPOKEN, start=1):
        started, first, pieces, text, said = time.monotonic(), 0.0, [], "", 0
        for event in new_session(talker).ask(**asked_of(talker, question), task="A1T2"):
            text += event.text if isinstance(event, TextDelta) else ""
            whole = sentences(text)[:-1]
            pieces += [engine.speak(sentence) for sentence in whole[said:]]
            said = len(whole)
            first = first or (time.monotonic() - started if pieces else 0.0)
        pieces += [engine.speak(sentence) for sentence in sentences(text)[said:]]
        taken = time.monotonic() - started
        path = out / f"cascade-{number}.wav"
        sound = np.concatenate(pieces), engine.sample_rate_hz
        yield judged(judge, question, text, sound, path, (first or taken, taken))


def judged(
    judge: Any,
    question: Path | str,
    text: str,
    sound: tuple[np.ndarray, int],
    path: Path,
    times_s: tuple[float, float],
) -> Exchange:
    """Write the sound and its spectrogram, and listen to it; `times_s` are of the first sound and of all."""
    from anytalk.evaluate.spectrogram import draw_spectrogram
    from anytalk.evaluate.wer import word_error_rate
    from anytalk.grid.audio import write_wave

    wave, rate_hz = sound
    write_wave(path, wave, rate_hz)
    draw_spectrogram(path.with_suffix(".png"), wave, rate_hz, text)
    heard = judge.transcribe(wave, rate_hz)
    return Exchange(
        question.name if isinstance(question, Path) else question,
        text,
        heard,
        word_error_rate([text], [heard]).wer,
        times_s[0],
        times_s[1] / max(len(wave) / rate_hz, 1e-3),
    )


def summary(done: Iterable[Exchange]) -> Any:
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
