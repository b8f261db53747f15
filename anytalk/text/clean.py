"""Cleans a text set for speech: yields the rows that a voice can read, and a reason for every row it drops.

Everything is streamed: memory holds a digest of each kept row (to find duplicates) and one window of rewrites.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

from anytalk.errors import DataError
from anytalk.files import written_whole
from anytalk.plugins.contracts import Audio, BadRow, Message, Row
from anytalk.text.markdown import read_markdown
from anytalk.text.normalise import normalise
from anytalk.text.rewrite import Request, RewriteStep
from anytalk.text.rules import RAW_RULES, SPOKEN_RULES, Fault, Rules, Side, on_side, spoken_seconds

NOT_RESCUED = ("empty", "language", "duplicate")
"""Faults of an answer that no rewriting can fix."""

_DIGEST_BYTES = 12


@dataclass(frozen=True)
class Dropped:
    """Holds a dropped row and the reason."""

    id: str  # its name
    fault: Fault  # why
    text: str = ""  # the faulty text as it was written


@dataclass
class Tally:
    """Counts what happened to the rows."""

    rows: int = 0  # read
    kept: int = 0  # written
    changed: int = 0  # kept rows with a text that was normalised or rewritten
    rewritten: int = 0  # kept rows with a rewritten answer
    # Sounds of kept rows that are lost: a manifest can't hold them (samples in memory, codes), or they no longer say
    # what the rewritten answer says.
    lost_sounds: int = 0
    spoken_s: float = 0.0  # estimated length of the kept texts, in seconds
    drops: Counter[str] = field(default_factory=Counter)  # rule -> rows


_MOST_CHARS = 20_000
"""The longest text that rules are applied to, 20 minutes of speech: some rules take time quadratic in its length."""


def clean_text(raw: str, side: Side, rules: Rules) -> tuple[str, Fault | None]:
    """Normalise a text for speech, or find out what is wrong with it.

    Args:
        raw: The text as it was written, in Markdown or plain.
        side: Whose limits apply.

    Returns:
        The normalised text (or as far as it got), and the first fault.
    """
    if len(raw) > _MOST_CHARS:
        return raw, Fault("length", f"{len(raw):,} characters; at most {_MOST_CHARS:,} are looked at")
    reading = read_markdown(raw)
    for name, find in RAW_RULES.items():
        if reason := find(raw, reading, rules):
            return raw, Fault(name, reason)
    said = normalise(raw, rules.language == "en", rules.date_order)
    for name, look in SPOKEN_RULES.items():
        if reason := look(said, side, rules):
            return said, Fault(name, reason)
    return said, None


class Cleaner:
    """Applies the rules to rows in order, and remembers which texts were kept.

    Args:
        rewrite: Rewrites answers; None leaves them as they are.
    """

    def __init__(self, rules: Rules, rewrite: RewriteStep | None = None) -> None:
        self.rules, self.rewrite, self.tally = rules, rewrite, Tally()
        self._seen: set[bytes] = set()

    def clean(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | Dropped]:
        """Yield each row, cleaned or dropped, in the order of `rows`."""
        window: list[tuple[Row, Row | Dropped, Request | None]] = []
        most = self.rewrite.window if self.rewrite else 0
        for row in rows:
            self.tally.rows += 1
            if isinstance(row, BadRow):
                window.append((Row(id=row.id), Dropped(row.id, Fault("unreadable", row.reason)), None))
            else:
                window.append((row, *self._prepare(row)))
            # Rewriters work on many answers at once; rows without one must not pile up in memory meanwhile.
            if sum(request is not None for _, _, request in window) >= most or len(window) >= 100 * most:
                yield from self._finish(window)
                window = []
        yield from self._finish(window)

    def _prepare(self, row: Row) -> tuple[Row | Dropped, Request | None]:
        """Check everything but what rewriting may fix."""
        cleaned = self._without_answer(row)
        if isinstance(cleaned, Dropped) or row.answer_text is None:
            return cleaned, None
        said, fault = clean_text(row.answer_text, "answer", self.rules)
        if self.rewrite and self.rewrite.wants(fault) and (fault is None or fault.rule not in NOT_RESCUED):
            return cleaned, Request(cleaned.question_text or "", row.answer_text)
        if fault:
            return Dropped(row.id, on_side(fault, "answer"), row.answer_text), None
        return replace(cleaned, answer_text=said), None

    def _without_answer(self, row: Row) -> Row | Dropped:
        if not any(t and t.strip() for t in (row.question_text, row.answer_text)):
            return Dropped(row.id, Fault("empty", "it has neither a question nor an answer as text"))
        if row.question_text is not None:
            said, fault = clean_text(row.question_text, "question", self.rules)
            if fault:
                return Dropped(row.id, on_side(fault, "question"), row.question_text)
            row = replace(row, question_text=said)
        # A duplicate is found before its history is cleaned and its answer rewritten.
        if self._digest(row) in self._seen:
            return self._duplicate(row)
        history: list[Message] = []
        for number, turn in enumerate(row.history, start=1):
            if turn.text is not None and turn.role != "system":
                side: Side = "question" if turn.role == "user" else "answer"
                said, fault = clean_text(turn.text, side, self.rules)
                if fault:
                    return Dropped(row.id, on_side(fault, f"turn {number}"), turn.text)
                turn = replace(turn, text=said)
            history.append(turn)
        return replace(row, history=tuple(history))

    def _finish(self, window: list[tuple[Row, Row | Dropped, Request | None]]) -> Iterator[Row | Dropped]:
        requests = [request for _, _, request in window if request is not None]
        outcomes = iter(self.rewrite.run(requests) if self.rewrite and requests else [])
        for original, cleaned, request in window:
            if request is not None and isinstance(cleaned, Row):
                cleaned = self._rewritten(cleaned, request, *next(outcomes))
            # Rows of the same window, and pairs whose answers became equal, are only found now.
            if isinstance(cleaned, Row) and self._digest(cleaned) in self._seen:
                cleaned = self._duplicate(cleaned)
            if isinstance(cleaned, Dropped):
                self.tally.drops[cleaned.fault.rule] += 1
            else:
                self._count(original, cleaned, request is not None)
            yield cleaned

    def _rewritten(self, row: Row, request: Request, text: str | None, error: str) -> Row | Dropped:
        if text is None:
            return Dropped(row.id, Fault("rewrite", error), request.answer)
        said, fault = clean_text(text, "answer", self.rules)
        if fault:
            return Dropped(row.id, on_side(fault, "rewritten answer"), text)
        # The recording says the old text, so it goes.
        self.tally.lost_sounds += row.answer_audio is not None or row.answer_codes is not None
        return replace(row, answer_text=said, answer_audio=None, answer_codes=None)

    def _count(self, original: Row, row: Row, rewritten: bool) -> None:
        if (digest := self._digest(row)) is not None:
            self._seen.add(digest)
        tally = self.tally
        tally.kept += 1
        tally.rewritten += rewritten
        tally.changed += (row.question_text, row.answer_text) != (original.question_text, original.answer_text)
        tally.spoken_s += sum(spoken_seconds(t, self.rules) for t in (row.question_text, row.answer_text) if t)

    def _duplicate(self, row: Row) -> Dropped:
        return Dropped(row.id, Fault("duplicate", "it was kept before"), row.question_text or row.answer_text or "")

    def _digest(self, row: Row) -> bytes | None:
        """Return what equal rows have in common, a digest of their letters without case; None if it isn't compared."""
        if self.rules.duplicates == "keep" or row.question_text is None:
            return None
        # The same question after another conversation is another row.
        texts = [turn.text or "" for turn in row.history] + [row.question_text]
        if self.rules.duplicates == "pair":
            texts.append(row.answer_text or "")
        bare = "\n".join("".join(c for c in text.casefold() if c.isalnum()) for text in texts)
        return hashlib.blake2b(bare.encode(), digest_size=_DIGEST_BYTES).digest()


def manifest_row(row: Row, folder: Path) -> tuple[dict[str, Any], int]:
    """Return a row as a manifest in `folder` stores it, and how many of its sounds a manifest can't store."""
    lost = 0

    def place(audio: Audio | None) -> str | None:
        nonlocal lost
        if isinstance(audio, Path):
            # Files inside the manifest's folder move with it, so their paths are relative; others are absolute.
            absolute = Path(os.path.abspath(audio))  # noqa: PTH100 - resolve() would follow links into a store
            return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
        lost += audio is not None and audio.url is None
        return None if audio is None else audio.url

    def bare(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value}

    turns = [bare({"role": t.role, "text": t.text, "audio": place(t.audio)}) for t in row.history]
    made = {
        "question_text": row.question_text,
        "question_audio": place(row.question_audio),
        "answer_text": row.answer_text,
        "answer_audio": place(row.answer_audio),
        "speaker": row.speaker,
        "history": turns,
        "tasks": list(row.tasks or ()),
    }
    return bare(made), lost + (row.answer_codes is not None and row.answer_audio is None)


def dropped_path(out: Path) -> Path:
    """Return the file for a manifest's dropped rows, ``OUT.dropped.jsonl`` next to it."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.dropped.jsonl")


def clean_to_files(
    rows: Iterable[Row | BadRow], out: Path, cleaner: Cleaner, progress: Callable[[Tally], None] = lambda tally: None
) -> Tally:
    """Write the cleaned manifest and the dropped rows; both files appear only when all is done.

    Args:
        progress: Called with the tally after each row.

    Returns:
        The final tally; the manifest then has at least one row.

    Raises:
        DataError: a file can't be written, or no row was kept (the dropped rows are written even then).
    """
    folder = Path(os.path.abspath(out)).parent  # noqa: PTH100
    drops, tally = dropped_path(out), cleaner.tally
    try:
        with written_whole(out) as manifest:
            with (
                # The inner block ends first, so the drops are kept even if no row is and the manifest fails.
                written_whole(drops) as partial,
                partial.open("w", encoding="utf-8") as dropped,
                manifest.open("w", encoding="utf-8") as kept,
            ):
                for result in cleaner.clean(rows):
                    if isinstance(result, Dropped):
                        fault = result.fault
                        _line(dropped, id=result.id, rule=fault.rule, reason=fault.reason, text=result.text)
                    else:
                        made, lost = manifest_row(result, folder)
                        tally.lost_sounds += lost
                        _line(kept, **made)
                    progress(tally)
            if not tally.kept:
                raise DataError(f"none of {tally.rows} rows was kept", f"look at the reasons in {drops}")
    except OSError as error:
        raise DataError(f"'{out}' can't be written: {error}", "is the folder writable and the disk not full?") from None
    return tally


def _line(file: IO[str], **values: Any) -> None:
    file.write(json.dumps(values, ensure_ascii=False) + "\n")


def rows_of(sources: Iterable[Iterable[Row | BadRow]]) -> Iterator[Row | BadRow]:
    """Yield the rows of one source after the other."""
    return chain.from_iterable(sources)
