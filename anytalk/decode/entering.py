"""Answers in the batch of a runner: their places, and what several of them feed as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import Generation
from anytalk.decode.memory import Memory
from anytalk.decode.reading import Reading
from anytalk.plugins.contracts import BackboneStates, Cache, Columns, Layout, Merged


@dataclass(eq=False)
class Slot:
    """One answer's place in the batch.

    Attributes:
        generation: Its choices.
        memory: Of its conversation; None for an answer without one.
        speech_numbers: As in :func:`~anytalk.decode.memory.column_keys`.
        column: The last one chosen.
        cached_columns: Columns of the prompt that were remembered and not read again.
        is_done: Whether the answer is complete, or has failed.
        error: What it failed by.
        num_rows: How many rows it has now.
        keys: What tells the columns of its prompt apart.
        fed: The columns that the backbone was fed since, each (rows that it sees, 1).
    """

    generation: Generation
    memory: Memory | None = None
    speech_numbers: Sequence[int] = ()
    column: Column | None = None
    cached_columns: int = 0
    is_done: bool = False
    error: Exception | None = None
    num_rows: int = 1
    keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    fed: list[np.ndarray] = field(default_factory=list)

    @property
    def index(self) -> int:
        assert self.column is not None
        return self.column.index


@dataclass
class Entering:
    """An answer on its way in.

    Attributes:
        slot: Its place.
        reading: What the backbone has to read; None where it has no part in the answer.
        prompt: The columns of the row that speaks, as ``Route.prefill`` wants them.
        adapter: The output adapter's cache, where the route reads prompts.
        states: (R,n,D) when read.
        heard: (1,1,W) for the audio heads.
    """

    slot: Slot
    reading: Reading | None
    prompt: Columns
    adapter: Cache | None
    states: BackboneStates | None = None
    heard: Tensor | None = None


def slot_row(slot: Slot, row: int) -> tuple[Slot, int]:
    """Names one row of an answer."""
    return slot, row


def prompts_of(entering: Sequence[Entering]) -> Columns:
    """Return the columns of several prompts, equally many of each, as one."""
    backbone, adapter = zip(*(e.prompt.merged for e in entering), strict=True)
    merged = Merged(torch.cat(backbone), None if adapter[0] is None else torch.cat(adapter))
    return Columns(torch.cat([e.prompt.tokens for e in entering]), merged)


def states_of(entering: Sequence[Entering]) -> BackboneStates:
    """Return the states of these columns; zero of answers in which the backbone takes no part."""
    found = []
    for e in entering:
        none = torch.zeros_like(e.prompt.merged.backbone)
        steps = none.shape[1]
        found.append((none, none) if e.states is None else [part[:1, -steps:] for part in e.states])
    return BackboneStates(*map(torch.cat, zip(*found, strict=True)))


def last_columns(slots: Sequence[Slot], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """What answers feed back: tokens (R,S,1) of all their rows, (R,) their voices, and (R,1) which rows have one."""
    tokens, voices, voiced = [], [], []
    for slot in slots:
        assert slot.column is not None
        own = torch.full((slot.num_rows, layout.num_streams, 1), layout.pad_a, dtype=torch.int64)
        own[:, layout.text_row] = slot.generation.next_text(slot.column)
        if slot.column.audio is not None:
            own[0, : layout.text_row, 0] = torch.from_numpy(slot.column.audio)
        tokens.append(own)
        speaker = slot.generation.speaker if slot.generation.audio_out else None
        # A second row writes and doesn't speak.
        voices += [speaker or 0] + [0] * (slot.num_rows - 1)
        voiced += [[speaker is not None]] + [[False]] * (slot.num_rows - 1)
    return torch.cat(tokens), torch.tensor(voices), torch.tensor(voiced)


def shared_columns(tokens: Tensor) -> int:
    """Return how many columns at the front are the same in all of several rows (R,S,T), the last one never counted."""
    differs = (tokens != tokens[:1]).any(dim=0).any(dim=0)
    return int(differs[:-1].int().argmax()) if bool(differs[:-1].any()) else tokens.shape[2] - 1
