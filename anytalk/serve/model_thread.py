"""The one thread that runs the model, for everybody.

Each round does at most one piece of preparation (listening to questions, or reading prompts, of all who wait for it)
and then one column for all answers in the batch: an answer goes on while others ask. Where nothing else
is to be done, it listens to turns that may be over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from torch import Tensor

from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Speech, front_of
from anytalk.decode.memory import Memory
from anytalk.decode.runner import Runner
from anytalk.errors import AnytalkError, ServedError
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import ServedBackbone
from anytalk.serve.heap import Heap

log = logging.getLogger("anytalk.serve")


class ModelThread:
    """Answers questions, many at a time.

    Args:
        talker: Who answers; nobody else may use its model while the thread runs.
        on_columns: Called in the thread after each round with how many answers got a column.
    """

    def __init__(
        self, talker: Talker, stride_frames: int = 1, on_columns: Callable[[int], None] = lambda _: None
    ) -> None:
        self.talker = talker
        self._stride_frames = stride_frames
        self._on_columns = on_columns
        self._runner = Runner(talker.model, wake=self._wake)
        self._heap = Heap()
        self._arrived = threading.Condition()
        self._new: deque[Job] = deque()
        # What nobody keeps any longer, because its speaker went on, isn't listened to.
        self._ahead: weakref.WeakSet[Speech] = weakref.WeakSet()
        self._preparing: list[Job] = []
        self._speaking: list[Job] = []
        self._stops = False
        self._last_words = "the server is going down"
        self._thread = threading.Thread(target=self._work, name="anytalk-model", daemon=True)

    def start(self) -> None:
        """Begin to answer; once it has begun, nothing happens."""
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        """Fail what is unfinished, with the next round at the latest; everybody is told. From any thread."""
        self._stops = True
        self._wake()

    def _wake(self) -> None:
        """Let the thread look again at what there is to do."""
        with self._arrived:
            self._arrived.notify()

    def stop(self) -> None:
        """:meth:`end`, and wait for the thread."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def is_ended(self) -> bool:
        """Whether it answers no more, because it was told so or has failed."""
        return self._stops

    @property
    def num_answers(self) -> int:
        """Answers that wait, are prepared or are spoken."""
        return len(self._new) + len(self._preparing) + len(self._speaking)

    def submit(self, job: Job) -> None:
        """Hand in a question; from any thread."""
        with self._arrived:
            if self._stops:
                job.emit(Failed(self._last_words, is_ours=True))
                return
            self._new.append(job)
            self._arrived.notify()

    def hear_ahead(self, speech: Speech) -> None:
        """Listen to a turn, or to a piece of one, as soon as nobody waits for anything; from any thread.

        A piece at a time, so that who asks meanwhile waits for no more than one.
        """
        with self._arrived:
            self._ahead.add(speech)
            self._arrived.notify()

    async def answer(self, question: Question, memory: Memory | None = None) -> AsyncGenerator[Event, None]:
        """Ask, and iterate for the answer; leaving the iteration (``aclose``) cancels it.

        The last event is an ``Ended`` or a ``Failed``.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(question, emit, memory)
        self.submit(job)
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, Ended | Failed):
                    return
        finally:
            job.cancel()
            self._wake()

    # ---- in the thread

    def _new_runner(self) -> Runner:
        runner = Runner(self.talker.model, wake=self._wake)
        if isinstance(self.talker.model.backbone, ServedBackbone):
            return runner
        try:
            runner.warm_up(front_of(self.talker))
        except Exception:  # nothing depends on it, and the thread must live
            log.exception("the first prompt could not be read")
            return Runner(self.talker.model, wake=self._wake)
        return runner

    def _work(self) -> None:
        self._runner = self._new_runner()
        try:
            self._run_rounds()
        except Exception as error:  # of a part that belongs to no answer; those who wait must be told
            log.critical("the model's thread has ended; start the server again", exc_info=error)
            self._last_words = f"the model's thread failed: {type(error).__name__}"
        with self._arrived:
            self._stops = True
        for job in [*self._new, *self._preparing, *self._speaking]:
            job.emit(Failed(self._last_words, is_ours=True))
            _forget(job)
        self._new.clear()
        self._preparing.clear()
        self._speaking.clear()

    def _run_rounds(self) -> None:
        while True:
            with self._arrived:
                while not (self._new or self._stops or self._can_go_on()):
                    self._arrived.wait()
                if self._stops:
                    return
                while self._new:
                    self._preparing.append(self._new.popleft())
            before = len(self._preparing) + len(self._speaking)
            self._drop_cancelled()
            self._prepare()
            self._step()
            left = len(self._preparing) + len(self._speaking)
            if left < before:
                self._heap.give_back(at_once=not left)

    def _can_go_on(self) -> bool:
        """Whether there is something to do now; not where all wait for text that is written elsewhere."""
        if any(job.is_cancelled for job in self._speaking):
            return True
        return bool(self._preparing or (self._ahead and not self._speaking)) or not self._runner.is_waiting

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._speaking if job.is_cancelled]:
            self._speaking.remove(job)
            assert job.slot is not None
            self._runner.remove(job.slot)
        self._preparing = [job for job in self._preparing if not job.is_cancelled]

    def _prepare(self) -> None:
        """Read the prompts of all who were listened to; where there are none, listen to all others."""
        ready = [job for job in self._preparing if not job.unheard]
        if ready:
            self._preparing = [job for job in self._preparing if job.unheard]
            self._read(ready)
        elif self._preparing:
            self._listen(self._preparing)
        elif not self._speaking:
            self._listen_ahead()

    def _listen_ahead(self) -> None:
        # It may be gone in this moment; what is wrong with it is told to those who ask.
        with suppress(Exception):
            with self._arrived:
                speech = self._ahead.pop()
            if not speech.hear_next(self.talker):
                self.hear_ahead(speech)

    def _listen(self, jobs: list[Job]) -> None:
        try:
            Speech.hear_all(self.talker, [speech for job in jobs for speech in job.unheard[:1]])
        except Exception:  # one of them is to blame; each is told of its own
            for job in jobs:
                with suppress(_HasFailed), _failures_of(job):
                    Speech.hear_all(self.talker, job.unheard[:1])
                    continue
                self._preparing = [other for other in self._preparing if other is not job]

    def _read(self, jobs: list[Job]) -> None:
        laid_out = []
        for job in jobs:
            with suppress(_HasFailed), _failures_of(job):
                job.prepare(self.talker, self._stride_frames)
                laid_out.append(job)
        try:
            self._runner.add_all([job.slot for job in laid_out if job.slot is not None])
        except Exception:  # as above; what was remembered is read again
            for job in laid_out:
                self._leave(job)
                self._begin([job], again=True)
        else:
            self._begin(laid_out)

    def _begin(self, jobs: Sequence[Job], again: bool = False) -> None:
        begun = []
        for job in jobs:
            try:
                with _failures_of(job):
                    if again:
                        job.prepare(self.talker, self._stride_frames)
                        assert job.slot is not None
                        self._runner.add(job.slot)
                    job.begin()
                    begun.append(job)
            except _HasFailed:
                self._leave(job)
        self._speaking += self._go_on(begun)

    def _go_on(self, jobs: Sequence[Job]) -> list[Job]:
        """Tell what the last column brought; returns the answers that aren't over."""
        told = {id(job) for job in self._tell(jobs)}
        for job in jobs:
            if id(job) not in told:
                self._leave(job)
        return [job for job in jobs if id(job) in told and job.slot is not None and not job.slot.is_done]

    def _tell(self, jobs: Sequence[Job]) -> list[Job]:
        """Text, sound, ends, the sound of all from one call of the codec; returns those that didn't fail."""
        written, told = [], []
        for job in jobs:
            with suppress(_HasFailed), _failures_of(job):
                job.write()
                written.append(job)
        due = [job for job in written if job.has_sound]
        sounds: dict[int, Tensor] = {}
        try:
            taken = [job.take_codes() for job in due]
            pushed = self.talker.codec.push_all(*map(list, zip(*taken, strict=True))) if taken else []
            sounds = dict(zip(map(id, due), pushed, strict=True))
        except Exception as error:  # nobody can tell which streams are still whole
            for job in due:
                _tell_failure(job, error)
            written = [job for job in written if not any(job is other for other in due)]
        for job in written:
            with suppress(_HasFailed), _failures_of(job):
                if id(job) in sounds:
                    job.speak(sounds[id(job)])
                if job.slot is not None and job.slot.is_done:
                    job.finish()
                told.append(job)
        return told

    def _leave(self, job: Job) -> None:
        if job.slot is not None:
            self._runner.remove(job.slot)
        _forget(job)

    def _step(self) -> None:
        try:
            stepped = self._runner.step()
        except Exception as error:
            # Their rows stand in one batch: nobody can tell whose caches are still whole.
            log.exception("a column failed for %d answers", len(self._speaking))
            for job in self._speaking:
                job.emit(Failed(f"the model failed: {type(error).__name__}", is_ours=True))
                _forget(job)
            self._speaking.clear()
            self._runner = self._new_runner()
            return
        self._on_columns(len(stepped))
        self._speaking = self._go_on(self._speaking)


class _HasFailed(Exception):  # noqa: N818
    """The job was told already."""


class _failures_of:  # noqa: N801
    """Tells a job of what goes wrong inside, and nobody else."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        _tell_failure(self.job, error)
        raise _HasFailed from error


def _tell_failure(job: Job, error: Exception) -> None:
    if isinstance(error, AnytalkError):
        # A client can't fix what is wrong with a model elsewhere.
        job.emit(Failed(str(error).replace("\n", "; "), is_ours=isinstance(error, ServedError)))
    else:
        log.error("an answer failed", exc_info=error)
        job.emit(Failed(f"the model failed: {type(error).__name__}", is_ours=True))


def _forget(job: Job) -> None:
    if job.slot is not None:
        job.slot.generation.close()
    if job.memory is not None:
        job.memory.forget()
