"""Random examples and prepared folders that the tests of shards share."""

from pathlib import Path

import fsspec
import numpy as np
import torch

from anytalk.data.config import SourceConfig
from anytalk.data.examples import Clip, Example, PastTurn
from anytalk.data.ledger import (
    CodecInfo,
    EncoderInfo,
    LedgerFile,
    Prepared,
    PreparedSource,
    Settings,
    ShardRecord,
    write_prepared,
)
from anytalk.data.prepare_worker import _runs
from anytalk.data.shards import ROWS_PER_GROUP, ShardWriter, to_record

WIDTH = 5
RATE_HZ = 16_000
TEXTS = (None, "", "a", "Größe\n\t'\"", "日本語", "x" * 300, "🙂", "\x00")


def random_example(random: np.random.Generator, number: int) -> Example:
    """Any example that the types allow."""

    def text() -> str | None:
        return TEXTS[int(random.integers(len(TEXTS)))]

    def clip() -> Clip | None:
        if random.random() < 0.3:
            return None
        frames = int(random.integers(0, 7))
        features = torch.from_numpy(random.standard_normal((frames, WIDTH)).astype(np.float32))
        wave = torch.from_numpy(random.integers(-32768, 32768, random.integers(1, 400)).astype(np.float32) / 32768)
        return Clip(
            frames,
            float(random.random() * 30),
            features if random.random() < 0.7 else None,
            wave if random.random() < 0.7 else None,
        )

    tasks = tuple(name for name in ("A1A2", "T1T2", "my task".replace(" ", "-")) if random.random() < 0.6)
    codes = random.integers(0, 4096, (7, int(random.integers(0, 9)))) if random.random() < 0.7 else None
    return Example(
        id=f"row:{number}",
        tasks=tasks,
        question_text=text(),
        clip=clip(),
        answer_text=text(),
        codes=codes,
        answer_s=float(random.random() * 9),
        speaker=text(),
        history=tuple(PastTurn("user", text(), clip()) for _ in range(random.integers(0, 4))),
    )


def same_clip(first: Clip | None, second: Clip | None) -> bool:
    def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        return (a is None) == (b is None) and (a is None or (torch.equal(a, b) and a.dtype == b.dtype))

    if first is None or second is None:
        return first is second
    sizes = (first.num_frames, first.duration_s) == (second.num_frames, second.duration_s)
    return sizes and same(first.features, second.features) and same(first.wave, second.wave)


def assert_same(first: Example, second: Example) -> None:
    for field in ("id", "tasks", "question_text", "answer_text", "answer_s", "speaker"):
        assert getattr(first, field) == getattr(second, field), field
    assert same_clip(first.clip, second.clip)
    assert (first.codes is None) == (second.codes is None)
    if first.codes is not None and second.codes is not None:
        assert first.codes.shape == second.codes.shape
        assert second.codes.dtype == np.int64
        assert np.array_equal(first.codes, second.codes)
    assert [(t.role, t.text) for t in first.history] == [(t.role, t.text) for t in second.history]
    assert all(same_clip(a.clip, b.clip) for a, b in zip(first.history, second.history, strict=True))


def write_folder(folder: Path, shards: list[list[Example]], half: bool = False, weight: float = 1.0) -> Path:
    """A prepared folder of one source, without any encoder."""
    folder.mkdir(parents=True)
    settings = Settings(
        encoder=EncoderInfo(name="e", fingerprint="1", width=WIDTH, sample_rate_hz=RATE_HZ),
        codec=CodecInfo(name="c", fingerprint="2", num_streams=7, codebook_size=4096, frame_rate_hz=12),
        half=half,
    )
    source = PreparedSource(slug="s", config=SourceConfig(kind="jsonl", name="S", path="x", weight=weight))
    write_prepared(
        folder,
        Prepared(library_version="0", talker="t", rows_per_group=ROWS_PER_GROUP, settings=settings, sources=[source]),
    )
    file, first = LedgerFile(folder), 0
    for number, examples in enumerate(shards):
        record = ShardRecord(
            source="s",
            number=number,
            first_row=first,
            rows=len(examples),
            kept=len(examples),
            tasks=_runs([" ".join(e.tasks) for e in examples]),
        )
        writer = ShardWriter(folder / record.file, half)
        for row, example in enumerate(examples, start=first):
            writer.add(to_record(row, example, RATE_HZ, half))
        file.add(record.model_copy(update={"num_bytes": writer.finish(record.model_dump_json())}))
        first += len(examples)
    file.finish("s", first)
    return folder


def to_memory(folder: Path, name: str) -> str:
    """A copy in fsspec's memory filesystem."""
    fs = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file() and ".cache" not in path.parts:
            fs.pipe_file(f"/{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"memory://{name}"
