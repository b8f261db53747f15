"""Run the model in one thread for all clients: its queue, its waiting, its end, and the errors that clients are told.

:mod:`anytalk.decode.rounds` decides what is computed in which order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Speech
from anytalk.decode.memory import Memory
from anytalk.decode.rounds import Rounds
from anytalk.errors import AnytalkError, ServedError
from anytalk.model.talker import Talker
from anytalk.serve.heap import Heap

log = logging.getLogger("anytalk.serve")


class ModelThread:
    """Answers many questions at the same time.

    Args:
        talker: The talker; nothing else may use its model while the thread runs.
        on_columns: Called in the thread after each round, with the number of answers that got a column.
    """

    def __init__(
        self, talker: Talker, stride_frames: int = 1, on_columns: Callable[[int], None] = lambda _: None
    ) -> None:
        self._on_columns = on_columns
        self._rounds = Rounds(talker, stride_frames, tell_failure, self._wake)
        self._heap = Heap()
        self._arrived = threading.Condition()
        self._new: deque[Job | Speech] = deque()
        self._stops = False
        self._last_words = "the server is shutting down"
        self._thread = threading.Thread(target=self._work, name="anytalk-model", daemon=True)

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        """Fail all unfinished answers in the next round, and tell their clients. May be called from any thread."""
        self._stops = True
        self._wake()

    def _wake(self) -> None:
        """Wake the thread up to look for work."""
        with self._arrived:
            self._arrived.notify()

    def stop(self) -> None:
        """End the thread (see :meth:`end`) and wait for it."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def is_ended(self) -> bool:
        """Tell whether the thread no longer answers, because it was ended or has failed."""
        return self._stops

    def submit(self, job: Job) -> None:
        """Add a question to the queue; may be called from any thread."""
        with self._arrived:
            if self._stops:
                job.emit(Failed(self._last_words, is_ours=True))
                return
            self._new.append(job)
            self._arrived.notify()

    def hear_ahead(self, speech: Speech) -> None:
        """Listen to a turn, or a piece of one, when no answer is waiting; may be called from any thread.

        Speech is heard piece by piece, so that a question never waits for more than one piece.
        """
        with self._arrived:
            self._new.append(speech)
            self._arrived.notify()

    async def answer(
        self, question: Question, memory: Memory | None = None, mute: threading.Event | None = None
    ) -> AsyncGenerator[Event, None]:
        """Ask a question and yield the events of its answer; closing the generator (``aclose``) cancels the answer.

        The last event is an ``Ended`` or a ``Failed``. Once `mute` is set, no more sound is made and the answer ends
        with its text.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the event loop is closed, so nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(question, emit, memory, mute or threading.Event())
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

    def _work(self) -> None:
        """Run the thread until it is ended or fails."""
        try:
            self._rounds.warm_up()
            self._run_rounds()
        except Exception as error:  # an error outside of any answer; everyone who waits must be told
            log.critical("the model's thread has ended; start the server again", exc_info=error)
            self._last_words = f"the model's thread failed: {type(error).__name__}"
        with self._arrived:
            self._stops = True
        for job in [*self._rounds.give_up(), *(new for new in self._new if isinstance(new, Job))]:
            job.emit(Failed(self._last_words, is_ours=True))
        self._new.clear()

    def _run_rounds(self) -> None:
        while True:
            with self._arrived:
                while not (self._new or self._stops or self._rounds.can_go_on):
                    self._arrived.wait()
                if self._stops:
                    return
                while self._new:
                    new = self._new.popleft()
                    if isinstance(new, Job):
                        self._rounds.add(new)
                    else:
                        self._rounds.listen_ahead(new)
                    del new  # otherwise the variable keeps it alive while the thread waits
            before = len(self._rounds.jobs)
            self._on_columns(self._rounds.run())
            left = len(self._rounds.jobs)
            # An answer has ended, and its cache with it.
            if left < before:
                self._heap.give_back(at_once=not left)


def tell_failure(job: Job, error: Exception) -> None:
    """Tell a client why its answer failed; log the error if it isn't the client's."""
    if isinstance(error, AnytalkError):
        # A client can't fix a model that is served elsewhere, so its error counts as the server's.
        job.emit(Failed(str(error).replace("\n", "; "), is_ours=isinstance(error, ServedError)))
    else:
        log.error("an answer failed", exc_info=error)
        job.emit(Failed(f"the model failed: {type(error).__name__}", is_ours=True))
