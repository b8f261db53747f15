"""The rounds in which one talker answers everybody: who is listened to when, whose prompts are read, who gets a column.

Each round does at most one piece of preparation (listening to questions, or reading prompts, of all who wait for it)
and then makes one column for all answers in the batch: an answer goes on while others ask. Where nothing else is to be
done, it listens to turns that may be over.
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
    """All answers of a talker that are asked for, from their questions to their ends. Not for use by several threads.

    Args:
        talker: Who answers.
        stride_frames: Codec frames per piece of sound.
        failed: Told of each answer that an error has ended, whether its own or everybody's.
        wake: Called, from any thread, when text has come that an answer was waiting for.
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
        # What nobody keeps any longer, because its speaker went on, isn't listened to.
        self._ahead: weakref.WeakSet[Speech] = weakref.WeakSet()
        self._preparing: list[Job] = []
        self._speaking: list[Job] = []

    def warm_up(self) -> None:
        """Read what conversations begin with, so that new ones read only what follows it."""
        if isinstance(self.talker.model.backbone, ServedBackbone):
            return
        try:
            self._runner.warm_up(front_of(self.talker))
        except Exception:  # nothing depends on it
            log.exception("the first prompt could not be read")

    @property
    def jobs(self) -> list[Job]:
        """Answers that are prepared or spoken."""
        return self._preparing + self._speaking

    @property
    def can_go_on(self) -> bool:
        """Whether there is something to do now; not where all wait for text that is written elsewhere."""
        if self._preparing or any(job.is_cancelled for job in self._speaking):
            return True
        return bool(self._ahead and not self._speaking) or not self._runner.is_waiting

    def add(self, job: Job) -> None:
        """Answer a question from the next round on."""
        self._preparing.append(job)

    def listen_ahead(self, speech: Speech) -> None:
        """Listen to a turn, or to a piece of one, in the rounds in which nobody waits for anything."""
        self._ahead.add(speech)

    def run(self) -> int:
        """Do one round; returns how many answers got a column."""
        self._drop_cancelled()
        self._prepare()
        try:
            stepped = self._runner.step()
        except Exception as error:
            # Not of one answer, or it would have ended that one only: nobody can tell whose caches are still whole.
            self._runner = Runner(self.talker.model, wake=self._wake)
            for job in self._speaking:
                self._end(job, error)
            self.warm_up()
            return 0
        self._tell(self._speaking)
        return len(stepped)

    def give_up(self) -> list[Job]:
        """Drop all answers and return them, without a word; where the model itself can't be trusted any more, too."""
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
        """Read the prompts of all who were listened to; where there are none, listen to all others."""
        ready = [job for job in self._preparing if not job.unheard]
        if ready:
            self._read(ready)
        elif self._preparing:
            self._listen(self._preparing)
        elif self._ahead and not self._speaking:
            self._listen_ahead()

    def _listen_ahead(self) -> None:
        """Listen to a piece: who asks meanwhile waits for no more than one."""
        with suppress(Exception):  # told to those who ask; and it may be gone in this moment
            speech = self._ahead.pop()
            if not speech.hear_next(self.talker):
                self._ahead.add(speech)

    def _listen(self, jobs: Sequence[Job]) -> None:
        try:
            Speech.hear_all(self.talker, [job.unheard[0] for job in jobs])
        except Exception:  # one of them is to blame
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
        """Tell what the last column brought: text, sound (of all from one call of the codec), and ends."""
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
                if job.has_thought:  # the answer follows
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
        # Nobody can tell which streams are still whole: each answer is decoded anew, and who is to blame fails again.
        sounds: dict[Job, Tensor] = {}
        for job in taken:
            with self._errors_of(job):
                sounds[job] = job.telling.decode_again()
        return sounds

    @contextmanager
    def _errors_of(self, job: Job) -> Iterator[None]:
        """End an answer by what goes wrong inside, and no other."""
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
