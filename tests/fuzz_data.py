"""Kinds of input for the search of :mod:`fuzz_lab`: manifests, data.yaml, talker.yaml, texts, and sound files."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from fuzz_lab import Kind, NotASentenceError, as_json, mutate_bytes, mutate_json, mutate_text
from talkers import make_talker

from anytalk.data.config import SourceConfig, read_data_config, read_rows
from anytalk.data.encoding import RowEncoder, reason_of
from anytalk.data.voice import read_texts
from anytalk.errors import AnytalkError
from anytalk.grid.audio import read_wave, sound_length_s
from anytalk.grid.tasks import TASKS
from anytalk.model.config import CONFIG_FILE, read_config
from anytalk.plugins.contracts import Sound
from anytalk.plugins.registry import default_registry
from anytalk.text.clean import Cleaner
from anytalk.text.rules import Rules

RATE_HZ = 16_000
ROWS: list[dict[str, Any]] = [
    {"question_text": "Who?", "question_audio": "q.wav", "answer_text": "I, of course.", "answer_audio": "a.wav"},
    {"audio": "q.wav", "text": "Where?", "answer_text": "Here, 3 km <off> the **road**.", "tasks": ["A1T1", "A1T2"]},
    {"question_text": "When?", "answer_text": "At 5:30 on 3/4/2021 for $5.", "speaker": "amy"},
    {
        "question_text": "And then?",
        "answer_text": "Nothing.",
        "history": [
            {"role": "system", "text": "Be brief."},
            {"role": "user", "audio": "q.wav", "text": "Hm?"},
            {"role": "assistant", "content": "Well."},
        ],
    },
    {"question_audio": {"path": "q.wav", "bytes": None}, "answer_audio": {"array": [0.1, 0.2], "sampling_rate": 8000}},
]
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "<audio>"},
            {"role": "assistant", "content": [{"type": "text", "text": "Fine."}]},
        ],
        "audios": ["q.wav"],
    },
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
            },
            {"role": "assistant", "content": "Yes.", "audio": "a.wav"},
        ]
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "system": "s"},
]
DATA_YAML: dict[str, Any] = {
    "sources": [
        {"kind": "jsonl", "path": "rows.jsonl", "name": "a", "limit": 3, "tasks": ["A1T2"], "weight": 2.0},
        {"kind": "csv", "path": "rows.csv", "options": {"delimiter": ","}, "filters": {"max_answer_s": 3.0}},
        {"kind": "messages", "path": "chat.jsonl", "options": {"all_turns": True, "words": "transcript"}},
    ],
    "voice": {"synthesizer": {"name": "flite", "options": {}}, "question_speeds": [1.0]},
    "augment": [{"name": "noise", "options": {}}],
    "seed": 1,
}
_A_PYTHON_ERROR = re.compile(r"\b[A-Z]\w+(Error|Exception)\b:")


def tone(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(seconds * rate_hz)) * 0.2)).astype(np.float32)


def data_kinds(folder: Path) -> list[Kind]:
    """Kinds that need files beside them; these are written into `folder`."""
    soundfile.write(folder / "q.wav", tone(0.3), RATE_HZ)
    soundfile.write(folder / "a.wav", tone(1.5), RATE_HZ)
    lines = [json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(chat) for chat in CHATS))
    table = "question_text,question_audio,answer_text,tasks,history\r\nWho?,q.wav,I.,A1T1 A1T2,\r\n"
    table += 'x,,"y, z",,"[{""role"": ""user"", ""text"": ""a""}, {""role"": ""assistant"", ""text"": ""b""}]"\r\n'
    (folder / "rows.csv").write_text(table)
    registry, rows = default_registry(), _row_reader()

    def manifest(name: str, kind: str, **options: Any) -> Callable[[bytes], None]:
        def attempt(given: bytes) -> None:
            (folder / name).write_bytes(given)
            rows(SourceConfig(kind=kind, name=name, path=str(folder / name), options=options))

        return attempt

    def data_yaml(given: bytes) -> None:
        (folder / "data.yaml").write_bytes(given)
        for source in read_data_config(folder / "data.yaml").sources:
            list(read_rows(source, registry))

    def talker_yaml(given: bytes) -> None:
        (folder / CONFIG_FILE).write_bytes(given)
        read_config(folder)

    def texts(given: bytes) -> None:
        (folder / "texts.jsonl").write_bytes(given)
        for bad in read_texts(folder / "texts.jsonl")[1]:
            _check_reason(bad.reason)

    array = [json.dumps(ROWS), json.dumps([*ROWS, *CHATS])]
    talker = yaml.safe_dump(make_talker().config.model_dump(mode="json", exclude_none=True))
    return [
        Kind("manifest, JSON lines", ROWS, _lines, manifest("fuzz.jsonl", "jsonl")),
        Kind("manifest, a JSON array", [a.encode() for a in array], mutate_bytes, manifest("fuzz.json", "jsonl")),
        Kind("manifest, CSV", [table.encode()], mutate_bytes, manifest("fuzz.csv", "csv")),
        Kind("manifest, messages", CHATS, _lines, manifest("messages.jsonl", "messages", words="transcript")),
        Kind("data.yaml", [DATA_YAML], _yaml, data_yaml),
        Kind("talker.yaml", [talker.encode(), *_versions(talker)], mutate_bytes, talker_yaml),
        Kind("texts to voice", ROWS, _lines, texts),
        Kind("texts to clean", [row["answer_text"] for row in ROWS if "answer_text" in row], mutate_text, _clean),
        Kind("sound", sounds(), lambda draw, seeds: mutate_bytes(draw, seeds, head=160), _sound(folder)),
    ]


def _versions(talker: str) -> list[bytes]:
    return [talker.replace("format_version: 2", f"format_version: {other}").encode() for other in (1, 3)]


def _row_reader() -> Callable[[SourceConfig], None]:
    talker, registry = make_talker(), default_registry()
    encoder = RowEncoder(encoder=talker.model.encoder, codec=talker.codec, keep_waves=True)

    def read(source: SourceConfig) -> None:
        for number, row in enumerate(read_rows(source, registry)):
            try:
                encoder.example(row, list(TASKS.values()), number)
            except Exception as error:
                kind, reason = reason_of(error)
                if kind == "failed":
                    raise
                _check_reason(reason)

    return read


def _check_reason(reason: str) -> None:
    if not reason.strip() or _A_PYTHON_ERROR.search(reason):
        raise NotASentenceError(reason)


def _lines(draw: random.Random, seeds: Sequence[Any]) -> bytes:
    deep = "[" * 100_000 if draw.random() < 0.01 else as_json(mutate_json(draw, seeds))
    lines = [deep.encode(), as_json(draw.choice(seeds)).encode()]
    data = (b"\n" if draw.random() < 0.9 else b"\r\n").join(lines)
    return mutate_bytes(draw, [data]) if draw.random() < 0.3 else data


def _yaml(draw: random.Random, seeds: Sequence[Any]) -> bytes:
    if draw.random() < 0.5:
        return mutate_bytes(draw, [yaml.safe_dump(seed).encode() for seed in seeds])
    return as_json(mutate_json(draw, seeds)).encode()


def _clean(given: str) -> None:
    from anytalk.plugins.contracts import Row

    try:
        given.encode()
    except UnicodeEncodeError:
        return  # refused before: `data.checks`
    list(Cleaner(Rules()).clean([Row(id="x", question_text=given, answer_text=given)]))


def sounds() -> list[bytes]:
    """A tenth of a second in every format that is read."""
    formats: tuple[tuple[str, str | None, int], ...] = (
        ("WAV", "PCM_16", 1),
        ("WAV", "PCM_24", 2),
        ("WAV", "FLOAT", 1),
        ("WAV", "DOUBLE", 2),
        ("WAV", "ULAW", 1),
        ("WAV", "IMA_ADPCM", 1),
        ("WAVEX", "PCM_16", 2),
        ("W64", "PCM_16", 1),
        ("RF64", "PCM_16", 1),
        ("AIFF", "PCM_16", 1),
        ("AU", "PCM_16", 1),
        ("CAF", "PCM_16", 1),
        ("FLAC", "PCM_16", 2),
        ("OGG", "VORBIS", 1),
        ("OGG", "OPUS", 1),
        ("MP3", None, 1),
    )
    made = []
    for name, subtype, channels in formats:
        buffer = io.BytesIO()
        wave = tone(0.1)
        soundfile.write(buffer, np.stack([wave] * channels, 1), RATE_HZ, subtype=subtype, format=name)
        made.append(buffer.getvalue())
    return made


def _sound(folder: Path) -> Callable[[bytes], None]:
    path = folder / "fuzz.wav"

    def attempt(given: bytes) -> None:
        path.write_bytes(given)
        refused = 0
        for audio in (Sound(name="x", data=given), path):
            try:
                length_s = sound_length_s(audio)
                wave = read_wave(audio, RATE_HZ)
            except AnytalkError as error:
                refused += 1
                last = error
                continue
            assert wave.ndim == 1
            assert np.isfinite(wave).all()
            assert np.abs(wave).max() <= 1.5  # the band limit rings
            assert length_s is not None
            assert length_s >= 0
        assert refused in (0, 2), "bytes and a file of these bytes are read differently"
        if refused:
            raise last

    return attempt
