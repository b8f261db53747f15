"""Shared fixtures. Everything runs on the CPU, offline, seeded."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The demo's voice may be installed beside anytalk or not: tests see what anytalk itself brings.
os.environ.setdefault("ANYTALK_BLOCK_PLUGINS", "heart")
# Two processes of pytest-xdist that computed on all cores would only wait for each other. Read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests make of weights is kept between them and between runs, but not in the user's own cache. Processes share it:
# what two of them need is made once, behind a lock.
os.environ["ANYTALK_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"anytalk-tests-{os.getuid()}")
# So is what DeepSpeed compiles. A folder with a dot isn't an entry of anytalk's cache.
os.environ["TORCH_EXTENSIONS_DIR"] = os.environ["ANYTALK_CACHE_DIR"] + "/.torch_extensions"

import pytest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: small models only wait for a second one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stock() -> Iterator[Any]:
    """A server for stock clients, `serve_lab.Running`."""
    from clients_lab import stock_server

    with stock_server() as found:
        yield found
