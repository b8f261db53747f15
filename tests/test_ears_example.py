"""The example that trains an input adapter on folders of speech: its manifests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from importable import importable

from anytalk.data.config import read_data_config
from anytalk.errors import DataError

with importable("ears"):
    import plain_manifests


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 5 o'clock, Mr. Tom!", "it's five o'clock mister tom"),
        ("A well-known 'word'", "a well known word"),
        ("DO YOU HEAR", "do you hear"),
        ("...", ""),
    ],
)
def test_plain_words(text: str, words: str) -> None:
    assert plain_manifests.plain_words(text) == words


def test_sets_become_one_data_file_with_clips_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = tmp_path / "LibriSpeech" / "84" / "1"
    chapter.mkdir(parents=True)
    people = tmp_path / "people"
    people.mkdir()
    for path in [*(chapter / f"84-1-000{n}.flac" for n in range(3)), people / "a.wav", people / "b.wav"]:
        soundfile.write(path, torch.rand(1600).numpy(), 16000)
    lines = "".join(f"84-1-000{n} THAT IS NUMBER {n}\n" for n in range(3))
    (chapter / "84-1.trans.txt").write_text(lines)
    spoken = [
        {"audio": "a.wav", "text": None, "speaker": "x"},
        {"audio": "b.wav", "text": "Hello, you.", "speaker": None},
    ]
    (people / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in spoken))
    out = tmp_path / "out"
    arguments = ["x", str(out), str(tmp_path / "LibriSpeech"), str(people), "--copies", "2", "--held-out-every", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    plain_manifests.main()
    config = read_data_config(out / "data.yaml")
    assert [source.name for source in config.sources] == ["LibriSpeech", "LibriSpeech-2", "people", "people-2"]
    assert [ref.name for ref in config.augment] == ["speed", "room", "noise"]
    kept = [json.loads(line)["text"] for line in (out / "LibriSpeech-2.jsonl").read_text().splitlines()]
    assert kept == ["that is number one", "that is number zero"]
    assert [source.weight for source in config.sources] == [2, 2, 1, 1]
    held = [json.loads(line) for line in (out / "held-out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in held] == ["that is number two", "hello you"]
    assert all(Path(row["audio"]).is_file() and row.keys() == {"audio", "text"} for row in held)


def test_nobody_is_both_learned_from_and_held_out(tmp_path: Path) -> None:
    lines = [{"audio": f"{who}{n}.wav", "text": f"number {n}", "speaker": who} for n in range(4) for who in "abc"]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        (tmp_path / line["audio"]).touch()
    rows = plain_manifests.spoken_rows(tmp_path)
    assert sorted(row["speaker"] for row in rows) == sorted("abc" * 4)
    learnt, held_out = plain_manifests.parted(rows, 12)
    assert {row["speaker"] for row in held_out} == {"c"}
    assert {row["speaker"] for row in learnt} == {"a", "b"}
    assert len(learnt) + len(held_out) == len(rows)


def test_clips_without_a_speaker_are_held_out_one_by_one(tmp_path: Path) -> None:
    lines = [{"audio": f"{n}.wav", "text": "so", "speaker": None} for n in range(6)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        (tmp_path / str(line["audio"])).touch()
    learnt, held_out = plain_manifests.parted(plain_manifests.spoken_rows(tmp_path), 3)
    assert (len(learnt), len(held_out)) == (4, 2)


def test_a_folder_without_speech_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no"):
        plain_manifests.spoken_rows(tmp_path)


@pytest.mark.parametrize(("bf16", "rounds"), [(None, None), ("", False), ("yes", True)])
def test_the_script_runs_on_any_processor(tmp_path: Path, bf16: str | None, rounds: bool | None) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("anytalk", "python"):  # each writes down what it was asked
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/said\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    environment.pop("BF16", None)
    if bf16 is not None:
        environment["BF16"] = bf16
    script = Path(plain_manifests.__file__).with_name("train.sh")
    subprocess.run(["sh", script, tmp_path / "out", "set"], env=environment, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert [line.split()[:2] for line in said if line.startswith("anytalk")] == [
        ["anytalk", "attach"],
        ["anytalk", "prepare"],
        ["anytalk", "prepare"],
        ["anytalk", "train"],
    ]
    if rounds is not None:
        assert said[-1].endswith("--precision bf16") is rounds
