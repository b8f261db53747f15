"""Runs blocks through workers: in this process, or in several others of which one may die."""

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
"""Told rows done and seconds of speech kept since it was last told; also now and then when nothing happened."""

_POLL_S = 0.25


def run_here(worker: Worker, blocks: Iterator[Block], report: Report) -> Generator[ShardRecord, None, None]:
    """Yield one block after the other in this process, on one thread, so that numbers are those of any other worker."""
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
    """Blocks through `num_workers` processes; shards come as they get ready, in any order.

    Closing the iterator (an interruption, an error) stops the workers at their next row; shards that are whole by then
    stand on the disk.

    Raises:
        DataError: a worker died.
        AnytalkError: what a worker raised.
    """
    context = multiprocessing.get_context("spawn")
    # A worker that is killed with a lock in its hands never gives it back: this process must not ask for any.
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
            # One block for each worker and one to go on with: rows can be large.
            while len(pending) > num_workers:
                yield from ready()
        while pending:
            yield from ready()
    except BrokenProcessPool:
        raise DataError(
            "a worker died: the system ended it, most often because memory ran out",
            "finished shards are kept: run the same command again, with fewer --workers or a smaller --rows-per-shard",
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


_state: dict[str, Any] = {}


def _start(setup: WorkerSetup, stop: Any, rows: Any, speech_s: Any) -> None:
    # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
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
    """A worker must not outlive a parent that was killed: it would write beside its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(block: Block) -> ShardRecord:
    if "worker" not in _state:
        _state["worker"] = Worker(_state["setup"], default_registry())
    worker: Worker = _state["worker"]
    return worker.process(block, _state["tick"])
