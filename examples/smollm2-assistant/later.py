"""The same sentences some milliseconds later: other codes for the same words.

    python later.py speech/answers speech/answers-27 --ms 27

A codec cuts speech into frames of 80 ms, and where the cuts fall changes every code. A mouth that has seen a sentence
cut in one way only learns the codes by heart; cut in several ways, it has to listen to what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import wave
from pathlib import Path


def write_later(source: Path, target: Path, lead_ms: float) -> None:
    """Copy a 16-bit sound with silence before it, whole or not at all."""
    with wave.open(str(source)) as file:
        parameters, samples = file.getparams(), file.readframes(file.getnframes())
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.wav")
    with wave.open(str(part), "wb") as file:
        file.setparams(parameters)
        frames = round(parameters.framerate * lead_ms / 1000)
        file.writeframes(bytes(frames * parameters.sampwidth * parameters.nchannels) + samples)
    part.replace(target)


def main() -> None:
    """Parse, copy, write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder with a manifest.jsonl and its sounds")
    parser.add_argument("out", type=Path)
    parser.add_argument("--ms", type=float, required=True)
    arguments = parser.parse_args()
    manifest = (arguments.speech / "manifest.jsonl").read_text(encoding="utf-8")
    for line in manifest.splitlines():
        name = json.loads(line)["answer_audio"]
        if not (arguments.out / name).is_file():
            write_later(arguments.speech / name, arguments.out / name, arguments.ms)
    (arguments.out / "manifest.jsonl").write_text(manifest, encoding="utf-8")
    print(f"{arguments.out}: {len(manifest.splitlines())} sounds, {arguments.ms:g} ms later")


if __name__ == "__main__":
    main()
