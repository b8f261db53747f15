"""The example that trains an input adapter on folders of speech: its manifests."""

from __future__ import annotations

import json
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
    assert kept == ["that is number one", "that is number two"]
    held = [json.loads(line) for line in (out / "held-out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in held] == ["that is number zero", "hello you"]
    assert all(Path(row["audio"]).is_file() for row in held)


def test_a_folder_without_speech_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no"):
        plain_manifests.spoken_rows(tmp_path)
