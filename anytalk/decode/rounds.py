"""Schedules one talker among all who ask: which questions are encoded, which prompts are read, who gets a column.

Each round does at most one piece of preparation (it listens to questions, or reads prompts, of all who wait for that)
and then generates a column for every answer in the batch, so answers go on while others ask. If there is nothing else
to do, a round listens ahead to turns that may be over.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor

from anytalk.decode.jobs import Job, Speech, front_of
from anytalk.decode.runner import Runner
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import CodecStream, ServedBackbone

log = logging.getLogger("anytalk.decode")


class Rounds:
    """Runs all answers of a talker from question to end. Not thread-safe.

    Args:
        talker: The talker that answers.
        stride_frames: How many codec frames make a piece of sound.
        failed: Called for each answer that an error has ended, its own or one that ends all answers.
        wake: Called from any thread when text arrives that an answer waits for.
    """

    def __init__(
        self,
        talker: Talker,
        stride_frames: int = 1,
        failed: Callable[[Job, Exception], None] = lambda job, error: None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.talker = talker
        self._stride_frames = stride_frames
        self._failed = failed
        self._wake = wake
        self._runner = Runner(talker.model, wake=wake)
        # A weak set: a turn whose owner drops it, because the speaker went on, needn't be encoded any more.
        self._ahead: weakref.WeakSet[Speech] = weakref.WeakSet()
        self._preparing: list[Job] = []
        self._speaking: list[Job] = []

    def warm_up(self) -> None:
        """Read the beginning that new conversations share, so that they read only what follows it."""
        if isinstance(self.talker.model.backbone, ServedBackbone):
            return
        try:
            self._runner.warm_up(front_of(self.talker))
        except Exception:  # the warm-up only saves time, so answers work without it
            log.exception("the first prompt could not be read")

    @property
    def jobs(self) -> list[Job]:
        """Return the answers that are being prepared or generated."""
        return self._preparing + self._speaking

    @property
    def can_go_on(self) -> bool:
        """Whether a round has something to do; False while all answers wait for text from served models."""
        if self._preparing or any(job.is_cancelled for job in self._speaking):
            return True
        return bool(self._ahead and not self._speaking) or not self._runner.is_waiting

    def add(self, job: Job) -> None:
        """Start to answer a question in the next round."""
        self._preparing.append(job)

    def listen_ahead(self, speech: Speech) -> None:
        """Listen to a turn, or to a piece of one, in rounds with nothing else to do."""
        self._ahead.add(speech)

    def run(self) -> int:
        """Do one round; return how many answers got a column."""
        self._drop_cancelled()
        self._prepare()
        try:
            stepped = self._runner.step()
        except Exception as error:
            # An error of one answer ends only that answer, so this one left the shared caches in an unknown state.
            self._runner = Runner(self.talker.model, wake=self._wake)
            for job in self._speaking:
                self._end(job, error)
            self.warm_up()
            return 0
        self._tell(self._speaking)
        return len(stepped)

    def give_up(self) -> list[Job]:
        """Drop all answers and return them; emits no events and calls no model, which may be broken."""
        given_up, self._preparing, self._speaking = self.jobs, [], []
        for job in given_up:
            if job.slot is not None:
                job.slot.generation.close()
        return given_up

    def _drop_cancelled(self) -> None:
        for job in self.jobs:
            if job.is_cancelled:
                self._leave(job)

    def _prepare(self) -> None:
        """Read the prompts of all questions that were listened to; if there are none, listen to the others."""
        ready = [job for job in self._preparing if not job.unheard]
        if ready:
            self._read(ready)
        elif self._preparing:
            self._listen(self._preparing)
        elif self._ahead and not self._speaking:
            self._listen_ahead()

    def _listen_ahead(self) -> None:
        """Listen to one piece, so that a new question waits for one piece at most."""
        with suppress(Exception):  # the answer that needs it will raise the error; and the weak set may be empty by now
            speech = self._ahead.pop()
            if not speech.hear_next(self.talker):
                self._ahead.add(speech)

    def _listen(self, jobs: Sequence[Job]) -> None:
        try:
            Speech.hear_all(self.talker, [job.unheard[0] for job in jobs])
        except Exception:  # try each question by itself, so that only the one that raises ends
            for job in jobs:
                with self._errors_of(job):
                    Speech.hear_all(self.talker, job.unheard[:1])

    def _read(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            with self._errors_of(job):
                job.prepare(self.talker, self._stride_frames)
        read = [job for job in jobs if job in self._preparing]
        self._preparing = [job for job in self._preparing if job not in read]
        self._speaking += read
        self._runner.add_all([job.slot for job in read if job.slot is not None])
        for job in read:
            if job.slot is not None and job.slot.error is None:
                job.begin()
        self._tell(read)

    def _tell(self, jobs: Sequence[Job]) -> None:
        """Emit the events of the last column: text, sound (decoded for all answers in one call) and ends."""
        for job in jobs:
            with self._errors_of(job):
                if job.slot is not None and job.slot.error is not None:
                    raise job.slot.error
                job.write()
        written = [job for job in jobs if job in self._speaking]
        sounds = self._sounds([job for job in written if job.has_sound])
        for job in [job for job in written if job in self._speaking]:
            with self._errors_of(job):
                if job in sounds:
                    job.speak(sounds[job])
                if job.has_thought:  # it is prepared again, now with its thoughts in the prompt
                    self._leave(job)
                    self.add(job)
                elif job.is_done:
                    job.finish()
                    self._leave(job)

    def _sounds(self, jobs: Sequence[Job]) -> dict[Job, Tensor]:
        taken: dict[Job, tuple[CodecStream, Tensor]] = {}
        for job in jobs:
            with self._errors_of(job):
                taken[job] = job.take_codes()
        if not taken:
            return {}
        try:
            pushed = self.talker.codec.push_all(*map(list, zip(*taken.values(), strict=True)))
            return dict(zip(taken, pushed, strict=True))
        except Exception as error:
            if len(taken) == 1:
                self._end(next(iter(taken)), error)
                return {}
        # Any stream may be broken after the error: each answer is decoded again in a new one, and only the one that
        # raised fails.
        sounds: dict[Job, Tensor] = {}
        for job in taken:
            with self._errors_of(job):
                sounds[job] = job.telling.decode_again()
        return sounds

    @contextmanager
    def _errors_of(self, job: Job) -> Iterator[None]:
        """End this answer, and no other, with any error raised in the block."""
        try:
            yield
        except Exception as error:
            self._end(job, error)

    def _end(self, job: Job, error: Exception) -> None:
        self._leave(job)
        if job.memory is not None:
            job.memory.forget()
        self._failed(job, error)

    def _leave(self, job: Job) -> None:
        self._preparing = [other for other in self._preparing if other is not job]
        self._speaking = [other for other in self._speaking if other is not job]
        if job.slot is not None:
            self._runner.remove(job.slot)
