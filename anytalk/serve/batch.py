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
from anytalk.model.talk_model import GridBatch, TalkCache, TalkModel
from anytalk.plugins.contracts import BackboneStates, Cache, JoinableCache
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
    _fed: list[int] = field(default_factory=list)
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
        audio: (R,n,D) of the same columns, for adapters that hear them.
        adapter: The output adapter's cache, where it has read what the backbone has.
        states: (R,n,D) when read.
        heard: (1,1,D) for the audio heads.
    """

    slot: Slot
    rows: list[Row]
    audio: Tensor | None
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
        self._begin_to_speak([e for e in entering if e.slot.generation.audio_out])
        writers = [e for e in entering if e.slot.generation.writes]
        text: dict[int, Tensor] = {}
        if writers:
            last = torch.cat([e.states.normed[-1:, -1:] for e in writers if e.states is not None])
            text = dict(zip((id(e) for e in writers), _single(self.model.text_logits(last)[:, 0]), strict=True))
        speakers = [e for e in entering if e.heard is not None]
        speech: dict[int, Tensor] = {}
        if speakers:
            heard = torch.cat([e.heard for e in speakers if e.heard is not None])
            speech = dict(zip((id(e) for e in speakers), self.model.audio_logits(heard)[:, :, 0], strict=True))
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
        speech: dict[int, Tensor] = {}
        if speakers:
            logits = self.model.audio_logits(torch.cat([heard[slot_row(slot, 0)] for slot in speakers]))[:, :, 0]
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
        self._remember(slot, None if self.model.speaks_alone else adapter)

    # ---- caches

    def _lay_out(self, slot: Slot) -> _Entering:
        """The prompt of an answer as rows to be read; none where the backbone has no part in it."""
        generation, model = slot.generation, self.model
        prompt = generation.prompts[0]
        slot._rows = len(generation.prompts)
        if len(slot.speech_numbers) == len(prompt.speech_spans):
            slot._keys = column_keys(prompt, slot.speech_numbers, model.layout.text_row, not model.speaks_alone)
        tokens = torch.from_numpy(np.stack([p.tokens for p in generation.prompts])).to(model.device)
        spans = [
            [(s, e) for (s, _), e in zip(p.speech_spans, generation.speech, strict=True)] for p in generation.prompts
        ]
        embeds, audio = model.embed(GridBatch(tokens, spans))
        if model.speaks_alone and generation.audio_out and not generation.writes:
            return _Entering(slot, [], audio, None)
        cache, length = self._recall(slot)
        slot.cached_columns = length
        room = prompt.num_columns + generation.options.max_columns
        rows = [
            Row(single, embeds[number : number + 1, length:], room)
            for number, single in enumerate(_rows_of(cache.backbone, slot._rows))
        ]
        return _Entering(slot, rows, None if audio is None else audio[:, length:], cache.output_adapter)

    def _recall(self, slot: Slot) -> tuple[TalkCache, int]:
        """A cache for all rows of an answer, and how many columns it holds already."""
        generation, model = slot.generation, self.model
        behind = generation.audio_out and not model.speaks_alone
        columns = generation.prompts[0].num_columns + generation.options.max_columns
        fresh = model.new_cache(slot._rows, columns, int(behind))
        if not generation.writes or not slot._keys.size:
            return fresh, 0
        needs_adapter = behind and fresh.output_adapter is not None
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

    def _begin_to_speak(self, entering: list[_Entering]) -> None:
        """The output adapter's first step of each answer that speaks."""
        model = self.model
        if not entering:
            return
        if not model.speaks_alone:
            for e in entering:
                assert e.states is not None
                heard = model.speak(e.states, e.audio, TalkCache(e.rows[0].cache, e.adapter), 1).audio
                e.heard = None if heard is None else heard[:, -1:]
                self._adapter.join(slot_row(e.slot, 0), e.adapter)
            return
        # The answer begins behind the prompt's last column, in which no text token of the answer stands.
        audio = torch.cat([e.audio[:, -1:] for e in entering if e.audio is not None])
        pads = torch.full(audio.shape[:2], model.layout.pad_t, device=audio.device)
        none = torch.zeros_like(audio[:1])
        last = [BackboneStates(none, none) if e.states is None else _last_of(e.states) for e in entering]
        room = max(e.slot.generation.options.max_columns for e in entering) + 1
        cache = model.output_adapter.new_cache(len(entering), room)
        if len(entering) > 1 and not isinstance(cache, JoinableCache):
            for e in entering:
                self._begin_to_speak([e])
            return
        heard = model.speak_alone(_stacked(last), pads, audio, TalkCache(cache, cache))  # type: ignore[arg-type]
        for e, step in zip(entering, _single(heard), strict=True):
            e.heard = step
        self._adapter.join_all([slot_row(e.slot, 0) for e in entering], cache)

    def _remember(self, slot: Slot, adapter: Cache | None) -> None:
        cache = self._backbone.leave(slot_row(slot, 0))
        if slot.memory is None or cache is None:
            return
        keys = slot._keys
        if self.model.speaks_alone:
            # The backbone saw text only; with audio in its input, a later prompt never repeats the answer's columns.
            keys = np.concatenate([keys, np.array([slot._fed], dtype=np.int64)], axis=1)
        slot.memory.keep(keys, cache, adapter)

    # ---- running and choosing

    def _run(self, active: list[Slot]) -> tuple[dict[Hashable, Tensor], dict[Hashable, Tensor]]:
        """Feed the last columns: normed states (1,1,D) by row, and what the audio heads read (1,1,D) by row."""
        model, layout = self.model, self.model.layout
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
                slot._fed.append(token)
        tokens, voices, voiced = (part.to(model.device) for part in (tokens, voices, voiced))
        given = (voices, voiced) if bool(voiced.any()) else (None, None)
        embeds, audio = model.embed(GridBatch(tokens, (), *given))
        readers = self._backbone.owners
        nothing = torch.zeros_like(embeds)
        states = BackboneStates(nothing, nothing.clone())
        if readers:
            at = torch.tensor([place[owner] for owner in readers], device=model.device)
            pre_norm, normed = self._backbone.run(lambda cache, x: model.backbone(x, cache), embeds[at])
            states = BackboneStates(nothing.index_copy(0, at, pre_norm), nothing.index_copy(0, at, normed))
        heard: dict[Hashable, Tensor] = {}
        speakers = self._adapter.owners
        if speakers:
            at = torch.tensor([place[owner] for owner in speakers], device=model.device)
            text = tokens[:, layout.text_row]
            spoken = self._speak(states, at, text[at], None if audio is None else audio[at])
            heard = dict(zip(speakers, _single(spoken), strict=True))
        return dict(zip(owners, _single(states.normed), strict=True)), heard

    def _speak(self, states: BackboneStates, at: Tensor, text: Tensor, audio: Tensor | None) -> Tensor:
        """One step of the output adapter for all rows that speak -> (rows,1,D)."""
        model = self.model

        def alone(cache: Cache | None, pre_norm: Tensor, normed: Tensor, ids: Tensor, past: Tensor) -> tuple[Tensor]:
            # Only the output adapter's half of the cache is used here.
            both = TalkCache(cache, cache)  # type: ignore[arg-type]
            return (model.speak_alone(BackboneStates(pre_norm, normed), ids, past, both),)

        def behind(cache: Cache | None, pre_norm: Tensor, normed: Tensor) -> tuple[Tensor]:
            return (model.output_adapter(BackboneStates(pre_norm, normed), None, cache),)

        pre_norm, normed = states.pre_norm[at], states.normed[at]
        if model.speaks_alone:
            assert audio is not None
            return self._adapter.run(alone, pre_norm, normed, text, audio)[0]
        return self._adapter.run(behind, pre_norm, normed)[0]

    def _choose(self, slot: Slot, text: Tensor | None, speech: Tensor | None, index: int) -> None:
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
        elif answer.text_ended and self.model.speaks_alone:
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


def _last_of(states: BackboneStates) -> BackboneStates:
    """(R,T,D) -> (1,1,D), the last column of the row that speaks."""
    return BackboneStates(states.pre_norm[:1, -1:], states.normed[:1, -1:])


def _rows_of(cache: Cache, rows: int) -> list[Cache]:
    """A cache of one or two rows -> one cache for each."""
    if rows == 1:
        return [cache]
    import copy

    other = copy.deepcopy(cache)
    cache.keep_rows([0])
    other.keep_rows([1])
    return [cache, other]
