"""Memory goes back to the system: not too often, at once when nobody is waiting, and really."""

from __future__ import annotations

import gc
import resource
import threading
import weakref
from pathlib import Path

import pytest
import torch

from anytalk.serve.heap import Heap, _malloc_trim, settle


def test_busy_servers_pause_between_two_times_and_idle_ones_do_not() -> None:
    now, pads = [10.0], []
    heap = Heap(5.0, trim=lambda pad: pads.append(pad) or 1, clock=lambda: now[0])
    assert heap.give_back()
    now[0] = 14.9
    assert not heap.give_back()
    assert heap.give_back(at_once=True)
    now[0] = 19.8
    assert not heap.give_back(), "the pause begins with the last time, whatever it was done for"
    now[0] = 20.0
    assert heap.give_back()
    assert pads == [0, 0, 0]


class Circle:
    """An object that only the collector can take away."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_over_goes_with_it() -> None:
    """Once the process has settled, the collector looks at little, and each time."""
    gc.disable()
    try:
        before = weakref.ref(Circle())
        Heap(trim=lambda _: 1).give_back()
        assert before() is not None, "a process that isn't ours alone is left alone"
        settle()
        assert before() is None
        after = weakref.ref(Circle())
        Heap(trim=lambda _: 1).give_back()
        assert after() is None
    finally:
        gc.unfreeze()
        gc.enable()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(_malloc_trim() is None, reason="this C library has no malloc_trim")
def test_holes_in_a_threads_arena_go_back() -> None:
    """What a cache leaves behind that grows in each step beside something that stays."""
    sizes: list[int] = []

    def work() -> None:
        kept, holes = [], []
        for _ in range(3000):
            holes.append(torch.ones(8192))  # 32 kB: too small to be mapped on its own
            kept.append(torch.ones(16))
        holes.clear()
        sizes.append(resident_bytes())
        assert Heap().give_back()
        sizes.append(resident_bytes())
        assert len(kept) == 3000

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sizes[0] - sizes[1] > 50e6, sizes
