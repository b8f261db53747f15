"""Convert examples to a parquet file that Hugging Face ``datasets`` reads, and back without any loss.

Light columns (texts, lengths, codes) come before heavy ones (features, sound), so that an outline is one short read.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytalk.data.examples import Clip, Example, PastTurn
from anytalk.files import put_in_place
from anytalk.plugins.optional import require

ROWS_PER_GROUP = 16
"""Rows of a row group, which remote readers fetch at once: about 25 MB for 10 s of Whisper small's features each."""

RECORD_KEY = b"anytalk.shard"
"""Key of the shard's own ledger line in its metadata, in case a crash prevents writing the ledger."""

HEAVY_FEATURES = ("question_features", "history_features")
HEAVY_SOUND = ("question_sound", "history_sound")


def features(half: bool = False) -> Any:
    """Return the columns of a shard as ``datasets.Features``."""
    require("prepared data", "train", "datasets", "pyarrow")
    from datasets import Features, List, Value

    numbers = List(Value("float16" if half else "float32"))
    text, seconds, frames = Value("string"), Value("float64"), Value("int32")
    turn = {"role": text, "text": text, "seconds": seconds, "frames": frames}
    return Features(
        {
            "row": Value("int64"),
            "id": text,
            "tasks": List(text),
            "question_text": text,
            "question_s": seconds,
            "question_frames": frames,
            "answer_text": text,
            "answer_s": seconds,
            "answer_codes": List(List(Value("int32"))),
            "speaker": text,
            "history": List(turn),
            "question_features": numbers,
            "history_features": List(numbers),
            "question_sound": Value("binary"),
            "history_sound": List(Value("binary")),
        }
    )


def columns_of(*, with_features: bool, with_sound: bool) -> list[str]:
    """Return the names of the columns to read."""
    heavy = (HEAVY_FEATURES if with_features else ()) + (HEAVY_SOUND if with_sound else ())
    return [name for name in features() if name in heavy or name not in HEAVY_FEATURES + HEAVY_SOUND]


def pack_sound(wave: np.ndarray, sample_rate_hz: int) -> bytes:
    """Encode samples (N,) float32 as 16-bit FLAC, clipped; multiples of 1/32768 are kept exactly."""
    import soundfile

    pcm = np.clip(np.round(wave.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def unpack_sound(data: bytes) -> np.ndarray:
    """Decode FLAC to samples (N,) float32."""
    import soundfile

    wave: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return wave


def to_record(number: int, example: Example, sample_rate_hz: int, half: bool = False) -> dict[str, Any]:
    """Convert an example to one value per column.

    Args:
        number: The row's number in its source.
        example: An example with the features and waves that are to be kept.
    """
    clip, past = example.clip, [turn.clip for turn in example.history]

    def numbers(clip: Clip | None) -> np.ndarray | None:
        if clip is None or clip.features is None:
            return None
        return clip.features.numpy().reshape(-1).astype(np.float16 if half else np.float32)

    def sound(clip: Clip | None) -> bytes | None:
        return None if clip is None or clip.wave is None else pack_sound(clip.wave.numpy(), sample_rate_hz)

    return {
        "row": number,
        "id": example.id,
        "tasks": list(example.tasks),
        "question_text": example.question_text,
        "question_s": None if clip is None else clip.duration_s,
        "question_frames": None if clip is None else clip.num_frames,
        "answer_text": example.answer_text,
        "answer_s": example.answer_s,
        "answer_codes": None if example.codes is None else list(example.codes.astype(np.int32)),
        "speaker": example.speaker,
        "history": [
            {
                "role": turn.role,
                "text": turn.text,
                "seconds": None if turn.clip is None else turn.clip.duration_s,
                "frames": None if turn.clip is None else turn.clip.num_frames,
            }
            for turn in example.history
        ],
        "question_features": numbers(clip),
        "history_features": [numbers(c) for c in past],
        "question_sound": sound(clip),
        "history_sound": [sound(c) for c in past],
    }


def to_example(columns: Any, width: int) -> Example:
    """Convert a table with one row to an example; columns of features and sound may be missing."""
    row: dict[str, Any] = {name: columns[name][0].as_py() for name in columns_of(with_features=False, with_sound=False)}
    held = set(columns.column_names)

    def clip(seconds: float | None, frames: int | None, numbers: Any, sound: Any) -> Clip | None:
        if seconds is None or frames is None:
            return None
        return Clip(frames, seconds, _features(numbers, frames, width), _wave(sound))

    past_features = columns["history_features"][0].values if "history_features" in held else None
    past_sound = columns["history_sound"][0].values if "history_sound" in held else None
    history = tuple(
        PastTurn(
            turn["role"],
            turn["text"],
            clip(
                turn["seconds"],
                turn["frames"],
                past_features[i] if past_features is not None else None,
                past_sound[i] if past_sound is not None else None,
            ),
        )
        for i, turn in enumerate(row["history"])
    )
    codes = row["answer_codes"]
    return Example(
        id=row["id"],
        tasks=tuple(row["tasks"]),
        question_text=row["question_text"],
        clip=clip(
            row["question_s"],
            row["question_frames"],
            columns["question_features"][0] if "question_features" in held else None,
            columns["question_sound"][0] if "question_sound" in held else None,
        ),
        answer_text=row["answer_text"],
        codes=None if codes is None else np.array(codes, dtype=np.int64).reshape(len(codes), -1),
        answer_s=row["answer_s"],
        speaker=row["speaker"],
        history=history,
    )


def _features(numbers: Any, frames: int, width: int) -> torch.Tensor | None:
    """Convert a pyarrow list scalar to features (F,E) float32."""
    if numbers is None or not numbers.is_valid:
        return None
    values = numbers.values.to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.astype(np.float32, copy=True).reshape(frames, width))


def _wave(sound: Any) -> torch.Tensor | None:
    """Convert a pyarrow binary scalar to samples (N,) float32."""
    return None if sound is None or not sound.is_valid else torch.from_numpy(unpack_sound(sound.as_py()))


class ShardWriter:
    """Writes a shard to a temporary file, one row group at a time, and renames the file when it is complete."""

    def __init__(self, path: Path, half: bool = False) -> None:
        import pyarrow.parquet as pq

        self.path = path
        # The process id keeps a worker that outlives a killed `prepare` from writing to the file of the next run.
        self._partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        self._schema = features(half).arrow_schema
        self._rows: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        # Values hardly repeat, so dictionaries would take time and save nothing.
        self._writer = pq.ParquetWriter(
            self._partial, self._schema, compression="zstd", compression_level=1, use_dictionary=False
        )

    def add(self, record: dict[str, Any]) -> None:
        """Add a row made by :func:`to_record`."""
        self._rows.append(record)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            data = {name: [row[name] for row in self._rows] for name in self._schema.names}
            self._writer.write_table(pa.Table.from_pydict(data, schema=self._schema))
            self._rows = []

    def finish(self, record: str) -> int:
        """Flush the shard to disk and rename it.

        Args:
            record: The shard's line of the ledger, which is stored in the file.

        Returns:
            The size of the file in bytes.
        """
        self._flush()
        self._writer.add_key_value_metadata({RECORD_KEY: record.encode()})
        self._writer.close()
        num_bytes = self._partial.stat().st_size
        put_in_place(self._partial, self.path)
        return num_bytes

    def abandon(self) -> None:
        with contextlib.suppress(Exception):  # closing writes, and the disk may be full
            self._writer.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


def shard_record(path: Path) -> str | None:
    """Return the ledger line that is stored in a shard; None if the file isn't a complete shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found: bytes | None = (pq.read_metadata(path).metadata or {}).get(RECORD_KEY)
    except (pa.ArrowException, OSError):
        return None
    return None if found is None else found.decode()


def turn_clips(example: Example) -> Sequence[Clip]:
    """Return all clips of an example; those of the history come first."""
    return [c for c in (*(turn.clip for turn in example.history), example.clip) if c is not None]
