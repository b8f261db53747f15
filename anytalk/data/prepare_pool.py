"""Run blocks of rows through workers, in this process or in several others, any of which may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from anytalk.data.ledger import ShardRecord
from anytalk.data.prepare_worker import Block, StopWork, Worker, WorkerSetup
from anytalk.errors import DataError
from anytalk.plugins.registry import default_registry

Report = Callable[[int, float], None]
"""Called with the rows done and the seconds of speech kept since the last call, also if there is nothing new."""

_POLL_S = 0.25


def run_here(worker: Worker, blocks: Iterator[Block], report: Report) -> Generator[ShardRecord, None, None]:
    """Process blocks in this process, on one thread, so that the numbers are the same as in any other worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for block in blocks:
            yield worker.process(block, report)
    finally:
        torch.set_num_threads(threads)


def run_workers(
    setup: WorkerSetup, num_workers: int, blocks: Iterator[Block], report: Report
) -> Generator[ShardRecord, None, None]:
    """Process blocks in `num_workers` processes; shards come in the order in which they are finished.

    Closing the generator, by an interruption or an error, stops the workers at their next row; shards that are finished
    by then are on disk.

    Raises:
        DataError: a worker died.
        AnytalkError: an error that a worker raised.
    """
    context = multiprocessing.get_context("spawn")
    # A worker that is killed while it holds a lock never releases it, so this process reads the values without locks.
    stop, rows, speech_s = context.RawValue("b", 0), context.Value("q", 0), context.Value("d", 0.0)
    told = [0, 0.0]

    def tell() -> None:
        now = rows.get_obj().value, speech_s.get_obj().value
        report(now[0] - int(told[0]), now[1] - told[1])
        told[:] = now

    pending: set[Future[ShardRecord]] = set()

    def ready() -> list[ShardRecord]:
        nonlocal pending
        done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        tell()
        return [future.result() for future in done]

    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start, initargs=(setup, stop, rows, speech_s)
    )
    try:
        for block in blocks:
            pending.add(pool.submit(_process, block))
            # One block per worker and one in reserve; more would take memory, because rows can be large.
            while len(pending) > num_workers:
                yield from ready()
        while pending:
            yield from ready()
    except BrokenProcessPool:
        raise DataError(
            "the system killed a worker, most likely because memory ran out",
            "finished shards are kept: run the same command again, with fewer --workers or a smaller --rows-per-shard",
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


_state: dict[str, Any] = {}


def _start(setup: WorkerSetup, stop: Any, rows: Any, speech_s: Any) -> None:
    """Prepare a worker process."""
    # A terminal sends Ctrl-C to all its processes; the parent decides what to do and sets `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tick(done: int, seconds: float) -> None:
        if stop.value:
            raise StopWork
        with rows.get_lock():
            rows.value += done
        with speech_s.get_lock():
            speech_s.value += seconds

    _state.update(setup=setup, tick=tick)


def _end_with_parent() -> None:
    """End this worker when its parent is gone; otherwise it would write the same shards as the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(block: Block) -> ShardRecord:
    if "worker" not in _state:
        _state["worker"] = Worker(_state["setup"], default_registry())
    worker: Worker = _state["worker"]
    return worker.process(block, _state["tick"])
