"""Defines the slots of answers in a runner's batch, and joins the tensors that they feed to the model together."""

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
    """Holds an answer in the batch.

    Attributes:
        generation: Chooses its tokens.
        memory: The memory of its conversation; None for an answer without one.
        speech_numbers: See :func:`~anytalk.decode.memory.column_keys`.
        column: The last column chosen.
        cached_columns: How many columns of the prompt were in the memory and not read again.
        is_done: Whether the answer is complete or has failed.
        error: The error that ended it.
        num_rows: How many rows of the batch it has now.
        keys: Keys of the prompt's columns, which tell whether a cache holds the same ones.
        fed: Keys of the columns fed to the backbone since then, each (rows that it sees, 1).
        writer: The place of the generation that writes its text ahead; None where nobody does.
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
    writer: Slot | None = None

    @property
    def index(self) -> int:
        assert self.column is not None
        return self.column.index


@dataclass
class Entering:
    """Holds an answer that is about to enter the batch.

    Attributes:
        slot: Its slot.
        reading: What the backbone has to read; None if it takes no part in the answer.
        prompt: The columns of the row that speaks, as ``Route.prefill`` expects them.
        adapter: The output adapter's cache, if the route reads prompts.
        states: The backbone's states, (R,n,D), once it has read.
        heard: Input of the audio heads, (1,1,W).
    """

    slot: Slot
    reading: Reading | None
    prompt: Columns
    adapter: Cache | None
    states: BackboneStates | None = None
    heard: Tensor | None = None


def slot_row(slot: Slot, row: int) -> tuple[Slot, int]:
    """Return the key under which the lanes hold one row of an answer."""
    return slot, row


def prompts_of(entering: Sequence[Entering]) -> Columns:
    """Concatenate the prompt columns of several answers, which must be equally many."""
    backbone, adapter = zip(*(e.prompt.merged for e in entering), strict=True)
    merged = Merged(torch.cat(backbone), None if adapter[0] is None else torch.cat(adapter))
    return Columns(torch.cat([e.prompt.tokens for e in entering]), merged)


def states_of(entering: Sequence[Entering]) -> BackboneStates:
    """Return the backbone's states of these columns; zero for answers in which the backbone takes no part."""
    found = []
    for e in entering:
        # Only the first row speaks, and its prompt for the route may be shorter than what was read.
        none = torch.zeros_like(e.prompt.merged.backbone)
        steps = none.shape[1]
        found.append((none, none) if e.states is None else [part[:1, -steps:] for part in e.states])
    return BackboneStates(*map(torch.cat, zip(*found, strict=True)))


def last_columns(slots: Sequence[Slot], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Return what answers feed back: tokens (R,S,1) of all rows, (R,) speakers, and (R,1) whether a row has one."""
    tokens, voices, voiced = [], [], []
    for slot in slots:
        assert slot.column is not None
        # A second row (batch-parallel decoding) gets the same text and pads instead of audio.
        own = torch.full((slot.num_rows, layout.num_streams, 1), layout.pad_a, dtype=torch.int64)
        own[:, layout.text_row] = slot.generation.next_text(slot.column)
        if slot.column.audio is not None:
            own[0, : layout.text_row, 0] = torch.from_numpy(slot.column.audio)
        tokens.append(own)
        speaker = slot.generation.speaker if slot.generation.audio_out else None
        # A second row only writes; the speaker embedding would disturb its text.
        voices += [speaker or 0] + [0] * (slot.num_rows - 1)
        voiced += [[speaker is not None]] + [[False]] * (slot.num_rows - 1)
    return torch.cat(tokens), torch.tensor(voices), torch.tensor(voiced)


def shared_columns(tokens: Tensor) -> int:
    """Return how many leading columns are equal in all rows of (R,S,T); the last column never counts."""
    differs = (tokens != tokens[:1]).any(dim=0).any(dim=0)
    return int(differs[:-1].int().argmax()) if bool(differs[:-1].any()) else tokens.shape[2] - 1
