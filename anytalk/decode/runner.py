"""Runs the model for all answers that are being generated, one column after the other.

Each answer makes its own choices (:class:`anytalk.decode.engine.Generation`), and has its own prompt, age and end; rows
join after their prefill and leave when they have nothing more to say. The route decides which parts run on which rows.
One answer alone (:func:`columns_of`) never joins caches, so its arithmetic depends on nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import Generation
from anytalk.decode.entering import Entering, Slot, prompts_of, shared_columns, slot_row, states_of
from anytalk.decode.lanes import Lane
from anytalk.decode.memory import Memory, column_keys
from anytalk.decode.reach import forget_old_speech
from anytalk.decode.reading import Reading, read_prompts
from anytalk.model.talk_model import TalkCache, TalkModel
from anytalk.plugins.contracts import Cache, Columns, GridBatch, JoinableCache, Merged, StreamLogits


class Runner:
    """The answers in progress of one model. Not for use by several threads.

    Args:
        model: In eval mode.
        joins: Whether answers share calls of the model; without, old speech of long answers is forgotten.
        wake: Called, from any thread, when text has come that an answer was waiting for; default: :meth:`wait` ends.
    """

    def __init__(self, model: TalkModel, joins: bool = True, wake: Callable[[], None] | None = None) -> None:
        self.model = model
        self.slots: list[Slot] = []
        self._joins = joins
        self._came = threading.Event()
        self._wake = wake or self._came.set
        # Answers whose text has not begun to come, and the output adapter's caches of others that wait for more of it.
        self._expected: list[Slot] = []
        self._parked: dict[Hashable, Cache | None] = {}
        self._backbone, self._adapter = Lane(joins), Lane(joins)
        # The last prompt that was read whole: new conversations begin with the same instructions.
        self._front = Memory()

    def warm_up(self, generation: Generation) -> None:
        """Read a prompt that new conversations share the beginning of; they then read only what follows it.

        It belongs to the server: prompts of users are never shared, because the time that reading takes would tell
        whether a prompt was known.
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
        :meth:`step`. An answer that waits for its text begins in the step after this has begun to come."""
        entering: list[Entering] = []
        for slot in slots:
            if slot.generation.arriving is not None:
                slot.generation.arriving.begin(self._wake)
            if slot.generation.is_waiting:
                self._expected.append(slot)
            elif slot.generation.has_failed:
                slot.is_done = True
            elif slot.generation.is_given:
                for column in slot.generation.given_columns():
                    slot.column = column
                slot.is_done = True
            else:
                entering.append(self._lay_out(slot))
        readers = [(e, e.reading) for e in entering if e.reading is not None]
        for (e, _), states in zip(readers, read_prompts(self.model.backbone, [r for _, r in readers]), strict=True):
            e.states = states
        self._begin_to_speak([e for e in entering if e.slot.generation.audio_out])
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
            if e.reading is not None:
                self._backbone.join([slot_row(e.slot, row) for row in range(e.slot.num_rows)], e.reading.cache)
            self.slots.append(e.slot)
        for e in entering:
            e.slot.generation.mark("prefilled")
            self._choose(e.slot, text.get(id(e)), speech.get(id(e)), 0)

    @torch.no_grad()
    def step(self) -> list[Slot]:
        """Make one more column of every answer that doesn't wait for text; return those that got one or ended. Done
        ones have left the batch."""
        active = [slot for slot in self.slots if not slot.generation.is_waiting]
        if active:
            self._go_on(active)
        return active + self._begin_expected()

    def _go_on(self, active: Sequence[Slot]) -> None:
        """Make one more column of these answers."""
        self._park_all_but(active)
        hidden, heard = self._run(active)
        writers = [slot for slot in active if slot.generation.writes]
        text: dict[int, Tensor] = {}
        if writers:
            rows = torch.cat([hidden[slot_row(slot, slot.num_rows - 1)] for slot in writers])
            text = dict(zip(map(id, writers), _single(self.model.text_logits(rows)[:, 0]), strict=True))
        speakers = [slot for slot in active if slot.generation.audio_out]
        speech: dict[int, StreamLogits] = {}
        if speakers:
            logits = self.model.route.choices(self.model, torch.cat([heard[slot_row(slot, 0)] for slot in speakers]))
            speech = dict(zip(map(id, speakers), logits, strict=True))
        for slot in active:
            self._choose(slot, text.get(id(slot)), speech.get(id(slot)), slot.index + 1)

    @property
    def is_waiting(self) -> bool:
        """Whether no answer can go on before more text has come; so also where there is none."""
        return all(slot.generation.is_waiting for slot in self.slots + self._expected)

    def wait(self) -> None:
        """Sleep until some answer can go on."""
        self._came.clear()
        if self.slots + self._expected and self.is_waiting:
            self._came.wait()

    def remove(self, slot: Slot) -> None:
        """Take an answer out, finished or not; what the model read and wrote stays in the conversation's memory."""
        slot.generation.close()
        self._expected = [other for other in self._expected if other is not slot]
        self._parked.pop(slot_row(slot, 0), None)
        reads_prompt = self.model.route.reads_prompt
        adapter = self._adapter.leave(slot_row(slot, 0), kept=reads_prompt and slot.memory is not None)
        if slot.num_rows == 2:
            self._backbone.leave(slot_row(slot, 1))
        if slot not in self.slots:  # it never came in whole
            self._backbone.leave(slot_row(slot, 0))
            return
        self.slots.remove(slot)
        self._remember(slot, adapter)

    # ---- text that is written elsewhere

    def _begin_expected(self) -> list[Slot]:
        """Let those in whose text has begun to come."""
        begun = [slot for slot in self._expected if not slot.generation.is_waiting]
        self._expected = [slot for slot in self._expected if all(slot is not other for other in begun)]
        self.add_all(begun)
        return begun

    def _park_all_but(self, active: Sequence[Slot]) -> None:
        """Take the rows of answers that wait out of the lane, whose rows all take a step, and put the others back."""
        going = {slot_row(slot, 0) for slot in active}
        for row in [row for row in self._parked if row in going]:
            self._adapter.join([row], self._parked.pop(row))
        for waiting in [row for row in self._adapter.owners if row not in going]:
            self._parked[waiting] = self._adapter.leave(waiting, kept=True)

    # ---- caches

    def _lay_out(self, slot: Slot) -> Entering:
        """Lay out the prompt as rows to read; none where the backbone takes no part in the answer."""
        generation, model = slot.generation, self.model
        prompt = generation.prompts[0]
        slot.num_rows = len(generation.prompts)
        if len(slot.speech_numbers) == len(prompt.speech_spans):
            slot.keys = column_keys(prompt, slot.speech_numbers, model.route.seen(model.layout))
        tokens = torch.from_numpy(np.stack([p.tokens for p in generation.prompts])).to(model.device)
        spans = [
            [(s, e) for (s, _), e in zip(p.speech_spans, generation.speech, strict=True)] for p in generation.prompts
        ]
        merged = model.embed(GridBatch(tokens, spans))
        cache, length = self._recall(slot)
        first = length if model.route.reads_prompt else -1
        adapter = None if merged.adapter is None else merged.adapter[:1, first:]
        columns = Columns(tokens[:1, :, first:], Merged(merged.backbone[:1, first:], adapter))
        if not model.route.needs_backbone(generation.writes):
            return Entering(slot, None, columns, cache.output_adapter)
        slot.cached_columns = length
        room = prompt.num_columns + generation.options.max_columns
        shared = max(0, shared_columns(tokens) - length) if slot.num_rows > 1 else prompt.num_columns - length
        reading = Reading(cache.backbone, merged.backbone[:, length:], shared, room)
        return Entering(slot, reading, columns, cache.output_adapter)

    def _recall(self, slot: Slot) -> tuple[TalkCache, int]:
        """Find or make the cache of an answer, and say how many columns it holds already."""
        generation, model = slot.generation, self.model
        columns = generation.prompts[0].num_columns + generation.options.max_columns
        fresh = model.new_cache(1, columns, int(generation.audio_out and model.route.reads_prompt))
        if not generation.writes or not slot.keys.size:
            return fresh, 0
        needs_adapter = fresh.output_adapter is not None
        known, length = None, 0
        if slot.memory is not None:
            known, length = slot.memory.take(slot.keys, needs_adapter)
        if known is None:
            known, length = self._front.copy(slot.keys, needs_adapter)
        if known is None:
            return fresh, 0
        return TalkCache(known.backbone, known.output_adapter if needs_adapter else fresh.output_adapter), length

    def _begin_to_speak(self, entering: Sequence[Entering]) -> None:
        """Run the output adapter up to the first columns of answers that speak."""
        model = self.model
        if not entering:
            return
        cache, together = entering[0].adapter, False
        if not model.route.reads_prompt:
            room = max(e.slot.generation.options.max_columns for e in entering) + 1
            cache = model.output_adapter.new_cache(len(entering), room)
            together = cache is None or isinstance(cache, JoinableCache)
        if len(entering) > 1 and not together:
            for e in entering:
                self._begin_to_speak([e])
            return
        heard = model.route.prefill(model, states_of(entering), prompts_of(entering), cache)
        for e, hidden in zip(entering, _single(heard), strict=True):
            e.heard = hidden
        self._adapter.join([slot_row(e.slot, 0) for e in entering], cache)

    def _remember(self, slot: Slot, adapter: Cache | None) -> None:
        cache = self._backbone.leave(slot_row(slot, 0), kept=slot.memory is not None)
        if slot.memory is not None and cache is not None:
            slot.memory.keep(np.concatenate([slot.keys, *slot.fed], axis=1), cache, adapter)

    def _let_go(self, slot: Slot) -> None:
        """Drop what an answer doesn't need once its text has ended."""
        if not self.model.route.needs_backbone(writes=False):
            self._remember(slot, None)
            return
        if slot.num_rows == 2:
            self._backbone.leave(slot_row(slot, 1))
            slot.num_rows = 1
        generation, backbone = slot.generation, self._backbone.cache_of(slot_row(slot, 0))
        if generation.options.reach and not self._joins and backbone is not None:
            # The prompt, the text and its end stay.
            kept = generation.prompts[0].num_columns + len(generation.answer.text_ids) + 1
            adapter = self._adapter.cache_of(slot_row(slot, 0))
            forget_old_speech(TalkCache(backbone, adapter), kept, generation.options.reach)

    # ---- running and choosing

    def _run(self, active: Sequence[Slot]) -> tuple[dict[Hashable, Tensor], dict[Hashable, Tensor]]:
        """Feed the last columns: normed states (1,1,D) by row, and what the audio heads read (1,1,D) by row."""
        model, layout = self.model, self.model.layout
        seen = model.route.seen(layout)
        owners: list[Hashable] = [slot_row(slot, row) for slot in active for row in range(slot.num_rows)]
        place = {owner: number for number, owner in enumerate(owners)}
        tokens = torch.full((len(owners), layout.num_streams, 1), layout.pad_a, dtype=torch.int64)
        voices = torch.zeros(len(owners), dtype=torch.int64)
        voiced = torch.zeros(len(owners), 1, dtype=torch.bool)
        for slot in active:
            assert slot.column is not None
            first, token = place[slot_row(slot, 0)], slot.generation.next_text(slot.column)
            tokens[first : first + slot.num_rows, layout.text_row] = token
            if slot.column.audio is not None:
                tokens[first, : layout.text_row, 0] = torch.from_numpy(slot.column.audio)
            if slot.generation.speaker is not None and slot.generation.audio_out:
                voices[first], voiced[first] = slot.generation.speaker, True
            if slot_row(slot, 0) in self._backbone.owners:
                slot.fed.append(tokens[first, seen].numpy().copy())
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
            answer.finish_reason = "length" if generation.was_cut else "stop"
        elif index + 1 >= generation.options.max_columns:
            answer.finish_reason = "length"
        slot.is_done = answer.finish_reason is not None
        if slot.is_done:
            self.remove(slot)
        elif answer.text_ended:
            self._let_go(slot)


def _single(rows: Tensor) -> list[Tensor]:
    """(B,...) -> B times (1,...)."""
    return [rows[i : i + 1] for i in range(len(rows))]


def columns_of(generation: Generation) -> Iterator[Column]:
    """Run one answer alone, column by column."""
    if generation.is_given:
        yield from generation.given_columns()
        return
    runner, slot, last = Runner(generation.model, joins=False), Slot(generation), None
    runner.add(slot)
    while True:
        if slot.column is not None and slot.column is not last:
            yield slot.column
        last = slot.column
        if slot.is_done:
            return
        runner.wait()
        runner.step()


def run_all(model: TalkModel, generations: Sequence[Generation], at_once: int = 32) -> Iterator[int]:
    """Run answers to their ends, `at_once` at a time; yield the number of each as it ends."""
    runner, waiting = Runner(model), list(enumerate(generations))[::-1]
    running: dict[int, Slot] = {}
    while waiting or running:
        places = min(len(waiting), at_once - len(running))
        new = {number: Slot(generation) for number, generation in (waiting.pop() for _ in range(places))}
        runner.add_all(list(new.values()))
        running |= new
        for number in [number for number, slot in running.items() if slot.is_done]:
            del running[number]
            yield number
        runner.wait()
        runner.step()
