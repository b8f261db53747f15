"""Runs the model for all answers in progress, one grid column per step.

Each answer chooses its own tokens (:class:`anytalk.decode.engine.Generation`); its rows join the batch after their
prefill and leave when it is done. The route decides which parts run on which rows. An answer alone
(:func:`columns_of`) never joins caches, so no other answer can affect its arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import Generation
from anytalk.decode.entering import Entering, Slot, last_columns, prompts_of, shared_columns, slot_row, states_of
from anytalk.decode.lanes import Lane
from anytalk.decode.memory import Memory, column_keys
from anytalk.decode.reach import forget_old_speech
from anytalk.decode.reading import Reading, read_prompts
from anytalk.model.talk_model import TalkCache, TalkModel
from anytalk.plugins.contracts import Cache, Columns, GridBatch, JoinableCache, Merged, StreamLogits


class Runner:
    """Holds the answers in progress of one model and steps them together. Not thread-safe.

    Args:
        model: The model, in eval mode.
        joins: Whether answers share calls of the model. If not, old speech of long answers is dropped from the caches.
        wake: Called from any thread when text arrives that an answer waits for; by default it ends :meth:`wait`.
    """

    def __init__(self, model: TalkModel, joins: bool = True, wake: Callable[[], None] | None = None) -> None:
        self.model = model
        self.slots: list[Slot] = []
        self._joins = joins
        self._came = threading.Event()
        self._wake = wake or self._came.set
        self._expected: list[Slot] = []  # answers whose text has yet to begin
        self._backbone, self._adapter = Lane(joins), Lane(joins)
        # The caches of the warm-up prompt: new conversations begin with the same instructions.
        self._front = Memory()

    def warm_up(self, generation: Generation) -> None:
        """Read a prompt whose beginning all new conversations share, so that they read only what follows it."""
        # Users' prompts are never shared: the time to the first column would reveal whether one had been sent before.
        slot = Slot(generation, self._front)
        self.add(slot)
        if slot.error is not None:
            raise slot.error
        self.remove(slot)

    def add(self, slot: Slot) -> None:
        """Add one answer; see :meth:`add_all`."""
        self.add_all([slot])

    @torch.no_grad()
    def add_all(self, slots: Sequence[Slot]) -> None:
        """Read prompts and choose first columns; then each :meth:`step` continues the answers.

        An answer that waits for text begins when the text does. One that fails is done, with its :attr:`Slot.error`.
        """
        # Answers take one of four ways: they wait for text, have failed, are known already, or enter the batch.
        entering: list[Slot] = []
        for slot in slots:
            if slot.generation.arriving is not None:
                slot.generation.arriving.begin(self._wake)
            if slot.generation.writer is not None and slot.writer is None:
                slot.writer = Slot(slot.generation.writer)
                entering.append(slot.writer)
            if slot.generation.is_waiting:
                self._expected.append(slot)
            elif slot.generation.has_failed:
                slot.is_done = True
            elif slot.generation.is_given:
                for column in slot.generation.given_columns():
                    slot.column = column
                slot.is_done = True
            else:
                entering.append(slot)
        self._let_in(entering)

    def _let_in(self, slots: Sequence[Slot]) -> None:
        try:
            text, speech = self._read(slots)
        except Exception as error:
            if len(slots) == 1:
                self._fail(slots[0], error)
            else:
                # Any of them may have raised. The failed call used up their memories, so whole prompts are read again.
                for slot in slots:
                    self._let_in([slot])
            return
        self.slots += slots
        for slot in slots:
            slot.generation.mark("prefilled")
            self._choose(slot, text.get(slot), speech.get(slot), 0)

    def _read(self, slots: Sequence[Slot]) -> tuple[dict[Slot, Tensor], dict[Slot, StreamLogits]]:
        """Read prompts, add their rows to the lanes, and return :meth:`_logits` of their first columns."""
        entering = [self._lay_out(slot) for slot in slots]
        readers = [(e, e.reading) for e in entering if e.reading is not None]
        for (e, _), states in zip(readers, read_prompts(self.model.backbone, [r for _, r in readers]), strict=True):
            e.states = states
        speaking = self._begin_to_speak([e for e in entering if e.slot.generation.audio_out])
        normed = {e.slot: e.states.normed[-1:, -1:] for e in entering if e.states is not None}
        logits = self._logits(normed, {e.slot: e.heard for e in entering if e.heard is not None})
        # Rows join only after every part has run, so that a failure leaves nothing in the lanes.
        for e, reading in readers:
            self._backbone.join([slot_row(e.slot, row) for row in range(e.slot.num_rows)], reading.cache)
        for owners, cache in speaking:
            self._adapter.join([slot_row(slot, 0) for slot in owners], cache)
        return logits

    @torch.no_grad()
    def step(self) -> list[Slot]:
        """Generate a column for every answer that isn't waiting for text; return those that got one or ended.

        Answers that are done have left the batch. One that fails is done, with its :attr:`Slot.error`.
        """
        active = [slot for slot in self.slots if not slot.generation.is_waiting]
        if active:
            going = {slot_row(slot, row) for slot in active for row in range(slot.num_rows)}
            for lane in (self._backbone, self._adapter):
                lane.park_all_but(going)
            self._go_on(active)
        writers = [slot.writer for slot in self.slots + self._expected]
        return [slot for slot in active if slot not in writers] + self._begin_expected()

    def _go_on(self, active: Sequence[Slot]) -> None:
        """Generate a column for these answers; the lanes must hold exactly their rows."""
        before = self._backbone.lengths, self._adapter.lengths
        try:
            fed, normed, heard = self._run(active)
            text, speech = self._logits(normed, heard)
        except Exception as error:
            if len(active) == 1:
                self._fail(active[0], error)
                return
            # Some parts or layers may have stored this step already. All go back to the lengths before it.
            for lane, lengths in zip((self._backbone, self._adapter), before, strict=True):
                lane.undo(lengths)
            self._go_on_apart(active)
            return
        for slot in active:
            if slot_row(slot, 0) in self._backbone.owners:
                slot.fed.append(fed[slot])
            self._choose(slot, text.get(slot), speech.get(slot), slot.index + 1)

    def _go_on_apart(self, active: Sequence[Slot]) -> None:
        """Generate a column for each answer separately, so that only the answer that raises fails."""
        together = self._backbone, self._adapter
        for slot in active:
            rows = [slot_row(slot, row) for row in range(slot.num_rows)]
            self._backbone, self._adapter = (lane.part(rows) for lane in together)
            self._go_on([slot])
            for lane, own in zip(together, (self._backbone, self._adapter), strict=True):
                lane.merge(own)
        self._backbone, self._adapter = together

    def _fail(self, slot: Slot, error: Exception) -> None:
        """End an answer with its error and keep nothing of it."""
        slot.error, slot.is_done, slot.memory = error, True, None
        self.remove(slot)
        for voice in [other for other in self.slots + self._expected if other.writer is slot]:
            self._fail(voice, error)

    @property
    def is_waiting(self) -> bool:
        """Whether every answer waits for text; also true if there are no answers."""
        return all(slot.generation.is_waiting for slot in self.slots + self._expected)

    def wait(self) -> None:
        """Block until an answer can go on."""
        self._came.clear()
        if self.slots + self._expected and self.is_waiting:
            self._came.wait()

    def remove(self, slot: Slot) -> None:
        """Take an answer out, finished or not; the columns that it read and wrote stay in its conversation's memory."""
        slot.generation.close()
        if slot.writer is not None:
            self.remove(slot.writer)
        self._expected = [other for other in self._expected if other is not slot]
        reads_prompt = self.model.route.reads_prompt
        adapter = self._adapter.leave(slot_row(slot, 0), kept=reads_prompt and slot.memory is not None)
        if slot.num_rows == 2:
            self._backbone.leave(slot_row(slot, 1))
        if slot not in self.slots:  # it has yet to enter, or failed while it entered
            self._backbone.leave(slot_row(slot, 0))
            return
        self.slots.remove(slot)
        self._remember(slot, adapter)

    # ---- text from a served model, or written ahead

    def _begin_expected(self) -> list[Slot]:
        """Add the answers whose text has begun to arrive."""
        begun = [slot for slot in self._expected if not slot.generation.is_waiting]
        self._expected = [slot for slot in self._expected if slot not in begun]
        self.add_all(begun)
        return begun

    # ---- caches

    def _lay_out(self, slot: Slot) -> Entering:
        """Build the rows that an answer has to read. It reads none if the backbone takes no part in it."""
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
        # Routes that don't run the output adapter over the prompt start it at the prompt's last column.
        first = length if model.route.reads_prompt else -1
        adapter = None if merged.adapter is None else merged.adapter[:1, first:]
        columns = Columns(tokens[:1, :, first:], Merged(merged.backbone[:1, first:], adapter))
        if not model.route.needs_backbone(generation.writes):
            return Entering(slot, None, columns, cache.output_adapter)
        slot.cached_columns = length
        room = prompt.num_columns + generation.options.max_columns
        # Both rows of an answer have the same prompt but for its end, so the common part is read once.
        shared = max(0, shared_columns(tokens) - length) if slot.num_rows > 1 else prompt.num_columns - length
        reading = Reading(cache.backbone, merged.backbone[:, length:], shared, room)
        return Entering(slot, reading, columns, cache.output_adapter)

    def _recall(self, slot: Slot) -> tuple[TalkCache, int]:
        """Return an answer's cache, remembered or new, and how many columns it holds already."""
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
            # A new conversation still shares its beginning with the warm-up prompt.
            known, length = self._front.copy(slot.keys, needs_adapter)
        if known is None:
            return fresh, 0
        return TalkCache(known.backbone, known.output_adapter if needs_adapter else fresh.output_adapter), length

    def _begin_to_speak(self, entering: Sequence[Entering]) -> list[tuple[list[Slot], Cache | None]]:
        """Run the output adapter up to the first columns; return its caches, each with the answers in its rows."""
        model = self.model
        if not entering:
            return []
        cache, together = entering[0].adapter, False
        if not model.route.reads_prompt:
            room = max(e.slot.generation.options.max_columns for e in entering) + 1
            cache = model.output_adapter.new_cache(len(entering), room)
            together = cache is None or isinstance(cache, JoinableCache)
        if len(entering) > 1 and not together:
            return [held for e in entering for held in self._begin_to_speak([e])]
        heard = model.route.prefill(model, states_of(entering), prompts_of(entering), cache)
        for e, hidden in zip(entering, _single(heard), strict=True):
            e.heard = hidden
        return [([e.slot for e in entering], cache)]

    def _remember(self, slot: Slot, adapter: Cache | None) -> None:
        cache = self._backbone.leave(slot_row(slot, 0), kept=slot.memory is not None)
        if slot.memory is not None and cache is not None:
            slot.memory.keep(np.concatenate([slot.keys, *slot.fed], axis=1), cache, adapter)

    def _let_go(self, slot: Slot) -> None:
        """Drop cache entries that an answer doesn't need after the end of its text."""
        if not self.model.route.needs_backbone(writes=False):
            self._remember(slot, None)
            return
        if slot.num_rows == 2:
            self._backbone.leave(slot_row(slot, 1))
            slot.num_rows = 1
        generation, backbone = slot.generation, self._backbone.cache_of(slot_row(slot, 0))
        if generation.options.reach and not self._joins and backbone is not None:
            # The prompt, the text and its end token stay.
            kept = generation.prompts[0].num_columns + len(generation.answer.text_ids) + 1
            adapter = self._adapter.cache_of(slot_row(slot, 0))
            forget_old_speech(TalkCache(backbone, adapter), kept, generation.options.reach)

    # ---- running and choosing

    def _run(self, active: Sequence[Slot]) -> tuple[dict[Slot, np.ndarray], dict[Slot, Tensor], dict[Slot, Tensor]]:
        """Feed the answers' last columns.

        Returns what the backbone sees of them (rows,1), normed states (1,1,D), and the audio heads' inputs (1,1,W).
        """
        model = self.model
        rows: list[Hashable] = [slot_row(slot, row) for slot in active for row in range(slot.num_rows)]
        place = {owner: number for number, owner in enumerate(rows)}
        first = {slot: place[slot_row(slot, 0)] for slot in active}
        tokens, voices, voiced = last_columns(active, model.layout)
        fed = {slot: tokens[row, model.route.seen(model.layout)].numpy().copy() for slot, row in first.items()}
        given = (voices.to(model.device), voiced.to(model.device)) if bool(voiced.any()) else (None, None)
        tokens = tokens.to(model.device)
        columns = Columns(tokens, model.embed(GridBatch(tokens, (), *given)))
        lanes = (lane.at(place, model.device) for lane in (self._backbone, self._adapter))
        hidden = model.route.step(model, columns, *lanes)
        states, audio = hidden.states.normed, hidden.audio
        # With batch-parallel decoding the last row, which has the text-only prompt, writes.
        normed = {slot: states[row + slot.num_rows - 1, None] for slot, row in first.items()}
        return fed, normed, {} if audio is None else {slot: audio[row, None] for slot, row in first.items()}

    def _logits(
        self, normed: dict[Slot, Tensor], heard: dict[Slot, Tensor]
    ) -> tuple[dict[Slot, Tensor], dict[Slot, StreamLogits]]:
        """Return text logits (1,V) and audio logits, of normed states (1,1,D) and the audio heads' inputs (1,1,W)."""
        writers = [slot for slot in normed if slot.generation.writes]
        text: dict[Slot, Tensor] = {}
        if writers:
            logits = self.model.text_logits(torch.cat([normed[slot] for slot in writers]))[:, 0]
            text = dict(zip(writers, _single(logits), strict=True))
        speakers = [slot for slot in heard if slot.generation.audio_out]
        speech: dict[Slot, StreamLogits] = {}
        if speakers:
            read = torch.cat([heard[slot] for slot in speakers])
            speech = dict(zip(speakers, self.model.route.choices(self.model, read), strict=True))
        return text, speech

    def _choose(self, slot: Slot, text: Tensor | None, speech: StreamLogits | None, index: int) -> None:
        generation, answer = slot.generation, slot.generation.answer
        try:
            column = generation.choose(text, speech, index)
        except Exception as error:
            self._fail(slot, error)
            return
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
    """Split (B,...) into B tensors (1,...)."""
    return [rows[i : i + 1] for i in range(len(rows))]


def columns_of(generation: Generation) -> Iterator[Column]:
    """Run one answer by itself and yield its columns."""
    if generation.is_given:
        yield from generation.given_columns()
        return
    runner, slot, last = Runner(generation.model, joins=False), Slot(generation), None
    runner.add(slot)
    while True:
        if slot.error is not None:
            raise slot.error
        if slot.column is not None and slot.column is not last:
            yield slot.column
        last = slot.column
        if slot.is_done:
            return
        runner.wait()
        runner.step()


def run_all(model: TalkModel, generations: Sequence[Generation], at_once: int = 32) -> Iterator[int]:
    """Run answers to their ends, at most `at_once` at a time; yield the index of each as it ends.

    Raises:
        Exception: The first error that ended an answer, raised once all others have ended.
    """
    runner, waiting = Runner(model), list(enumerate(generations))[::-1]
    running: dict[int, Slot] = {}
    failed: list[Exception] = []
    while waiting or running:
        places = min(len(waiting), at_once - len(running))
        new = {number: Slot(generation) for number, generation in (waiting.pop() for _ in range(places))}
        runner.add_all(list(new.values()))
        running |= new
        for number in [number for number, slot in running.items() if slot.is_done]:
            error = running.pop(number).error
            if error is None:
                yield number
            else:
                failed.append(error)
        runner.wait()
        runner.step()
    if failed:
        raise failed[0]
