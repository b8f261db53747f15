"""All answers that are being generated, one column after the other, in one batch.

It does for many what ``decode.engine.Generation`` does for one, with the same choices by the same code: only the runs
of the model are shared. Each answer has its own prompt length, its own age and its own end; rows join after their
prefill and leave when they have nothing more to say.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import Generation
from anytalk.model.talk_model import TalkCache, TalkModel
from anytalk.plugins.contracts import BackboneStates, Cache, Columns, GridBatch, Merged, StreamLogits
from anytalk.serve.lanes import Lane
from anytalk.serve.memory import Memory, column_keys
from anytalk.serve.reading import Row, read_rows


@dataclass
class Slot:
    """One answer's place in the batch.

    Attributes:
        generation: Its choices.
        memory: Of its conversation; None for an answer that stands alone.
        speech_numbers: As in :func:`~anytalk.serve.memory.column_keys`.
        column: The last one chosen.
        cached_columns: Columns of the prompt that were remembered and not read again.
        is_done: Whether the answer is complete.
    """

    generation: Generation
    memory: Memory | None = None
    speech_numbers: Sequence[int] = ()
    column: Column | None = None
    cached_columns: int = 0
    is_done: bool = False
    _keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    _fed: list[np.ndarray] = field(default_factory=list)
    _rows: int = 1

    @property
    def index(self) -> int:
        """Answer column of `column`."""
        assert self.column is not None
        return self.column.index


@dataclass
class _Entering:
    """An answer on its way into the batch.

    Attributes:
        slot: Its place.
        rows: What the backbone has to read.
        prompt: The columns of the row that speaks.
        adapter: The output adapter's cache, where it has read what the backbone has.
        states: (R,n,D) when read.
        heard: (1,1,D) for the audio heads.
    """

    slot: Slot
    rows: list[Row]
    prompt: Columns
    adapter: Cache | None
    states: BackboneStates | None = None
    heard: Tensor | None = None


class Batch:
    """The answers in progress of one model. Not for use by several threads."""

    def __init__(self, model: TalkModel) -> None:
        self.model = model
        self.slots: list[Slot] = []
        self._backbone, self._adapter = Lane(), Lane()
        self._front = (
            Memory()
        )  # the last prompt that was read whole: new conversations begin with the same instructions

    def warm_up(self, generation: Generation) -> None:
        """Read a prompt that new conversations begin like; they then read only what comes behind.

        It is nobody's: prompts of users are never shared, because how fast a prompt is read tells whether it was known.
        """
        slot = Slot(generation, self._front)
        self.add(slot)
        self.remove(slot)

    def add(self, slot: Slot) -> None:
        """:meth:`add_all` for one answer."""
        self.add_all([slot])

    @torch.no_grad()
    def add_all(self, slots: Sequence[Slot]) -> None:
        """Read prompts, together where caches join, and choose first columns; the answers then take part in each
        :meth:`step`."""
        entering: list[_Entering] = []
        for slot in slots:
            if slot.generation.is_given:
                for index in range(slot.generation.options.max_columns):
                    if not slot.is_done:
                        self._choose(slot, None, None, index)
            else:
                entering.append(self._lay_out(slot))
        readers = [e for e in entering if e.rows]
        states = read_rows(self.model.backbone, [row for e in readers for row in e.rows])
        for e in readers:
            e.states, states = _stacked(states[: len(e.rows)]), states[len(e.rows) :]
        for e in entering:
            self._begin_to_speak(e)
        writers = [e for e in entering if e.slot.generation.writes]
        text: dict[int, Tensor] = {}
        if writers:
            last = torch.cat([e.states.normed[-1:, -1:] for e in writers if e.states is not None])
            text = dict(zip((id(e) for e in writers), _single(self.model.text_logits(last)[:, 0]), strict=True))
        speakers = [e for e in entering if e.heard is not None]
        speech: dict[int, StreamLogits] = {}
        if speakers:
            heard = torch.cat([e.heard for e in speakers if e.heard is not None])
            speech = dict(zip((id(e) for e in speakers), self.model.route.choices(self.model, heard), strict=True))
        for e in entering:
            for number, row in enumerate(e.rows):
                self._backbone.join(slot_row(e.slot, number), row.cache)
            self.slots.append(e.slot)
        for e in entering:
            self._choose(e.slot, text.get(id(e)), speech.get(id(e)), 0)

    @torch.no_grad()
    def step(self) -> list[Slot]:
        """One more column of every answer; returns those that got one or ended. Done ones have left the batch."""
        active = list(self.slots)
        if not active:
            return []
        hidden, heard = self._run(active)
        writers = [slot for slot in active if slot.generation.writes]
        text: dict[int, Tensor] = {}
        if writers:
            rows = torch.cat([hidden[slot_row(slot, slot._rows - 1)] for slot in writers])
            text = dict(zip(map(id, writers), _single(self.model.text_logits(rows)[:, 0]), strict=True))
        speakers = [slot for slot in active if slot.generation.audio_out]
        speech: dict[int, StreamLogits] = {}
        if speakers:
            logits = self.model.route.choices(self.model, torch.cat([heard[slot_row(slot, 0)] for slot in speakers]))
            speech = dict(zip(map(id, speakers), logits, strict=True))
        for slot in active:
            self._choose(slot, text.get(id(slot)), speech.get(id(slot)), slot.index + 1)
        return active

    def remove(self, slot: Slot) -> None:
        """Take an answer out, finished or not; what the model read and wrote stays in the conversation's memory."""
        adapter = self._adapter.leave(slot_row(slot, 0))
        if slot._rows == 2:
            self._backbone.leave(slot_row(slot, 1))
        if slot not in self.slots:  # it never came in whole
            self._backbone.leave(slot_row(slot, 0))
            return
        self.slots.remove(slot)
        self._remember(slot, adapter if self.model.route.reads_prompt else None)

    # ---- caches

    def _lay_out(self, slot: Slot) -> _Entering:
        """The prompt of an answer as rows to be read; none where the backbone has no part in it."""
        generation, model = slot.generation, self.model
        prompt = generation.prompts[0]
        slot._rows = len(generation.prompts)
        if len(slot.speech_numbers) == len(prompt.speech_spans):
            slot._keys = column_keys(prompt, slot.speech_numbers, model.route.seen(model.layout))
        tokens = torch.from_numpy(np.stack([p.tokens for p in generation.prompts])).to(model.device)
        spans = [
            [(s, e) for (s, _), e in zip(p.speech_spans, generation.speech, strict=True)] for p in generation.prompts
        ]
        merged = model.embed(GridBatch(tokens, spans))
        cache, length = self._recall(slot)
        adapter = None if merged.adapter is None else merged.adapter[:1, length:]
        columns = Columns(tokens[:1, :, length:], Merged(merged.backbone[:1, length:], adapter))
        if not model.route.needs_backbone(generation.writes):
            return _Entering(slot, [], columns, cache.output_adapter)
        slot.cached_columns = length
        room = prompt.num_columns + generation.options.max_columns
        rows = [
            Row(single, merged.backbone[number : number + 1, length:], room)
            for number, single in enumerate(_rows_of(cache.backbone, slot._rows))
        ]
        return _Entering(slot, rows, columns, cache.output_adapter)

    def _recall(self, slot: Slot) -> tuple[TalkCache, int]:
        """A cache for all rows of an answer, and how many columns it holds already."""
        generation, model = slot.generation, self.model
        columns = generation.prompts[0].num_columns + generation.options.max_columns
        fresh = model.new_cache(slot._rows, columns, int(generation.audio_out))
        if not generation.writes or not slot._keys.size:
            return fresh, 0
        needs_adapter = model.route.reads_prompt and fresh.output_adapter is not None
        known, length = None, 0
        if slot.memory is not None:
            known, length = slot.memory.take(slot._keys, needs_adapter)
        if known is None:
            known, length = self._front.copy(slot._keys, needs_adapter)
        if known is None:
            return fresh, 0
        if slot._rows == 2:
            known.backbone.keep_rows([0, 0])
        return TalkCache(known.backbone, known.output_adapter if needs_adapter else fresh.output_adapter), length

    def _begin_to_speak(self, entering: _Entering) -> None:
        """The output adapter's way through the prompt of an answer that speaks."""
        if not entering.slot.generation.audio_out:
            return
        states = None if entering.states is None else BackboneStates(*(part[:1] for part in entering.states))
        entering.heard = self.model.route.prefill(self.model, states, entering.prompt, entering.adapter)
        self._adapter.join(slot_row(entering.slot, 0), entering.adapter)

    def _remember(self, slot: Slot, adapter: Cache | None) -> None:
        cache = self._backbone.leave(slot_row(slot, 0))
        if slot.memory is None or cache is None:
            return
        slot.memory.keep(np.concatenate([slot._keys, *slot._fed], axis=1), cache, adapter)

    # ---- running and choosing

    def _run(self, active: list[Slot]) -> tuple[dict[Hashable, Tensor], dict[Hashable, Tensor]]:
        """Feed the last columns: normed states (1,1,D) by row, and what the audio heads read (1,1,D) by row."""
        model, layout = self.model, self.model.layout
        seen = model.route.seen(layout)
        owners: list[Hashable] = [slot_row(slot, row) for slot in active for row in range(slot._rows)]
        place = {owner: number for number, owner in enumerate(owners)}
        tokens = torch.full((len(owners), layout.num_streams, 1), layout.pad_a, dtype=torch.int64)
        voices = torch.zeros(len(owners), dtype=torch.int64)
        voiced = torch.zeros(len(owners), 1, dtype=torch.bool)
        for slot in active:
            assert slot.column is not None
            first, token = place[slot_row(slot, 0)], slot.generation.next_text(slot.column)
            tokens[first : first + slot._rows, layout.text_row] = token
            if slot.column.audio is not None:
                tokens[first, : layout.text_row, 0] = torch.from_numpy(slot.column.audio)
            if slot.generation.speaker is not None and slot.generation.audio_out:
                voices[first], voiced[first] = slot.generation.speaker, True
            if slot_row(slot, 0) in self._backbone.owners:
                slot._fed.append(tokens[first, seen].numpy().copy())
        tokens, voices, voiced = (part.to(model.device) for part in (tokens, voices, voiced))
        given = (voices, voiced) if bool(voiced.any()) else (None, None)
        columns = Columns(tokens, model.embed(GridBatch(tokens, (), *given)))
        lanes = (lane.at(place, model.device) for lane in (self._backbone, self._adapter))
        hidden = model.route.step(model, columns, *lanes)
        heard = {} if hidden.audio is None else dict(zip(owners, _single(hidden.audio), strict=True))
        return dict(zip(owners, _single(hidden.states.normed), strict=True)), heard

    def _choose(self, slot: Slot, text: Tensor | None, speech: StreamLogits | None, index: int) -> None:
        generation, answer = slot.generation, slot.generation.answer
        column = generation.choose(text, speech, index)
        slot.column = column or slot.column
        if column is None or generation.is_done(index):
            answer.finish_reason = "stop"
        elif index + 1 >= generation.options.max_columns:
            answer.finish_reason = "length"
        slot.is_done = answer.finish_reason is not None
        if slot.is_done:
            self.remove(slot)
        elif answer.text_ended and not self.model.route.needs_backbone(False):
            self._remember(slot, None)
        elif answer.text_ended and slot._rows == 2:
            self._backbone.leave(slot_row(slot, 1))
            slot._rows = 1


def slot_row(slot: Slot, row: int) -> tuple[int, int]:
    """Names one row of an answer."""
    return id(slot), row


def _single(rows: Tensor) -> list[Tensor]:
    """(B,...) -> B times (1,...)."""
    return [rows[i : i + 1] for i in range(len(rows))]


def _stacked(states: Sequence[BackboneStates]) -> BackboneStates:
    """Rows (1,T,D) each -> (R,T,D)."""
    return BackboneStates(torch.cat([s.pre_norm for s in states]), torch.cat([s.normed for s in states]))


def _rows_of(cache: Cache, rows: int) -> list[Cache]:
    """A cache of one or two rows -> one cache for each."""
    if rows == 1:
        return [cache]
    import copy

    other = copy.deepcopy(cache)
    cache.keep_rows([0])
    other.keep_rows([1])
    return [cache, other]
