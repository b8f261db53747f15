"""Count training data: rows, hours, lengths, voices, tasks, and rows left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anytalk.data.config import DataConfig, SourceConfig, read_rows
from anytalk.data.ledger import is_remote, open_address, read_ledger, read_prepared
from anytalk.data.prepare import choose_tasks
from anytalk.errors import AudioError, DataError
from anytalk.grid.audio import sound_length_s
from anytalk.plugins.contracts import Audio, BadRow, Row, Sound
from anytalk.plugins.optional import require
from anytalk.plugins.registry import Registry

QUANTILES = (0.05, 0.5, 0.95, 1.0)
"""Quantiles of lengths that are shown; the last one is the longest."""


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """Holds the counts of one source."""

    name: str
    rows: int  # rows read
    kept: int  # rows that can be used
    question_hours: float  # of spoken questions
    answer_hours: float  # of spoken answers
    question_quantiles_s: tuple[float, ...] = ()  # the `QUANTILES` of their lengths; empty without spoken questions
    answer_quantiles_s: tuple[float, ...] = ()  # the same for the answers
    tasks: dict[str, int] = field(default_factory=dict)  # rows that serve each task
    voices: dict[str, int] = field(default_factory=dict)  # rows by the answer's voice; "" if it has no name
    rejected: dict[str, int] = field(default_factory=dict)  # rows that can't be used, by kind of reason
    unknown_lengths: int = 0  # sounds whose length can't be known without fetching or decoding them
    complete: bool = True  # whether the source was read to its end


def quantiles(lengths_s: Sequence[float]) -> tuple[float, ...]:
    """Return the :data:`QUANTILES` of lengths; () if there are none."""
    return tuple(float(q) for q in np.quantile(lengths_s, QUANTILES)) if len(lengths_s) else ()


def prepared_stats(spec: str | Path) -> list[SourceStats]:
    """Count a prepared folder or address, finished or not, from its ledger and two columns of its shards.

    Raises:
        DataError: nothing is prepared there, or a shard can't be read.
    """
    where = str(spec)
    prepared, ledger = read_prepared(where), read_ledger(where)
    found = []
    for source in prepared.sources:
        records = ledger.of(source.slug)
        lengths = [_lengths(where, record.file) for record in records if record.kept]
        questions = [s for question, _ in lengths for s in question]
        answers = [s for _, answer in lengths for s in answer]
        tasks: Counter[str] = Counter()
        for names, count in (run for record in records for run in record.tasks):
            tasks.update(dict.fromkeys(names.split(), count))
        found.append(
            SourceStats(
                name=source.config.name,
                rows=sum(r.rows for r in records),
                kept=sum(r.kept for r in records),
                question_hours=sum(r.question_s for r in records) / 3600,
                answer_hours=sum(r.answer_s for r in records) / 3600,
                question_quantiles_s=quantiles(questions),
                answer_quantiles_s=quantiles(answers),
                tasks=dict(sorted(tasks.items())),
                voices=_summed(record.voices for record in records),
                rejected=_summed(record.rejected for record in records),
                complete=source.slug in ledger.complete,
            )
        )
    return found


def _summed(counts: object) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:  # type: ignore[attr-defined]
        total.update(count)
    return dict(sorted(total.items()))


def _lengths(where: str, name: str) -> tuple[list[float], list[float]]:
    """Return the lengths of a shard's spoken questions and of its spoken answers, in seconds."""
    require("prepared data", "train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_remote(where):
            fs, root = open_address(where)
            with fs.open(f"{root}/{name}", "rb") as file:
                table = pq.read_table(file, columns=["question_s", "answer_s"])
        else:
            table = pq.read_table(Path(where) / name, columns=["question_s", "answer_s"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"shard '{name}' can't be read: {' '.join(str(error).split())}", "copy it again") from None
    questions = [s for s in table["question_s"].to_pylist() if s is not None]
    return questions, [s for s in table["answer_s"].to_pylist() if s]


def config_stats(
    config: DataConfig, registry: Registry, progress: Callable[[str, int], None] = lambda name, rows: None
) -> list[SourceStats]:
    """Count sources as they are, without filters; only the headers of sound files are read.

    If `config` names a voice, rows count for all tasks that they serve once they are read aloud.

    Args:
        progress: Called with the name of a source and the number of its rows so far.

    Raises:
        DataError: a source that can't be read.
    """
    return [_source_stats(source, registry, progress, config.voice is not None) for source in config.sources]


_TO_BE_VOICED = Sound(name="to be read aloud by `anytalk prepare`")


def _voiced(row: Row) -> Row:
    """Return the row as if its texts without sound had been read aloud."""
    question = _TO_BE_VOICED if row.question_text is not None else None
    answer = _TO_BE_VOICED if row.answer_text is not None and row.answer_codes is None else None
    return replace(row, question_audio=row.question_audio or question, answer_audio=row.answer_audio or answer)


def _sounds(row: Row) -> list[tuple[str, Audio]]:
    both = (("question", row.question_audio), ("answer", row.answer_audio))
    return [(part, audio) for part, audio in both if audio is not None]


def _source_stats(
    source: SourceConfig, registry: Registry, progress: Callable[[str, int], None], voices_rest: bool
) -> SourceStats:
    from anytalk.data.encoding import reason_of, tasks_of

    tasks_known = choose_tasks(source)
    tasks: Counter[str] = Counter()
    voices: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    lengths: dict[str, list[float]] = {"question": [], "answer": []}
    unknown = number = 0
    for number, row in enumerate(read_rows(source, registry, strict=False), start=1):
        progress(source.name, number)
        if isinstance(row, BadRow):
            rejected["broken row"] += 1
            continue
        served = tasks_of(_voiced(row) if voices_rest else row, tasks_known)
        if not served:
            rejected["serves no task"] += 1
            continue
        try:
            found = {part: sound_length_s(audio) for part, audio in _sounds(row)}
        except Exception as error:  # one sound must not end the count
            rejected["unreadable sound" if isinstance(error, AudioError) else reason_of(error)[0]] += 1
            continue
        tasks.update(task.name for task in served)
        if row.answer_audio is not None or row.answer_codes is not None:
            voices[row.speaker or ""] += 1
        # The length of codes depends on the codec's frame rate, which the data doesn't tell.
        unknown += row.answer_audio is None and row.answer_codes is not None
        for part, length_s in found.items():
            if length_s is None:
                unknown += 1
            else:
                lengths[part].append(length_s)
    return SourceStats(
        name=source.name,
        rows=number,
        kept=number - rejected.total(),
        question_hours=sum(lengths["question"]) / 3600,
        answer_hours=sum(lengths["answer"]) / 3600,
        question_quantiles_s=quantiles(lengths["question"]),
        answer_quantiles_s=quantiles(lengths["answer"]),
        tasks=dict(sorted(tasks.items())),
        voices=dict(sorted(voices.items())),
        rejected=dict(sorted(rejected.items())),
        unknown_lengths=unknown,
    )
