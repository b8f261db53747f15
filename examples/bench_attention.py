"""How long a step looks at what came before: a memory in float32 and one in bfloat16, alone and in whole steps.

Alone: the attention of a step of Qwen2-0.5B (24 memories of 2 key heads for 14 queries), through torch and through
``anytalk_backbones.attention``. Whole: steps of the reference stack in ``int8``, without codec and sampling.

    python examples/bench_attention.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from anytalk.bench.decoding import run_step
from anytalk.bench.reference import reference_talker
from anytalk.decode.ready import make_talker_ready
from anytalk.model.talk_model import TalkCache
from anytalk_backbones import attention
from anytalk_backbones.lean import LeanDecoder

LENGTHS = (256, 1024, 2048, 7000)
ROOM = 7100
DTYPES = (torch.float32, torch.bfloat16)


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the median; whatever else the machine does hits all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def alone(rows: int, repeats: int) -> dict[int, dict[str, float]]:
    """Attention of one step, by length and way."""
    stores = {dtype: torch.randn(24, 2, rows, 2, ROOM, 64).to(dtype) for dtype in DTYPES}
    query, attend = torch.randn(rows, 2, 7, 64), attention.Attention()

    def look(dtype: torch.dtype, length: int, few: int) -> None:
        attention._FEW = few
        for held in stores[dtype]:
            attend(query, held[:, :, :, :length], None, 1)

    ways = {
        "torch, float32": (torch.float32, 0),
        "torch, bfloat16": (torch.bfloat16, 10**9),
        "two products, bfloat16": (torch.bfloat16, 0),
    }
    made = {}
    usual = attention._FEW
    for n in LENGTHS:
        made[n] = in_turn({k: lambda n=n, way=way: look(way[0], n, way[1]) for k, way in ways.items()}, repeats)
    attention._FEW = usual
    return made


def whole(rows: int, repeats: int) -> dict[int, dict[str, float]]:
    """Whole steps, by length and dtype of the memory."""
    talker = make_talker_ready(reference_talker(), "int8")
    lean = [module for module in talker.model.modules() if isinstance(module, LeanDecoder)]
    caches = {}
    for dtype in DTYPES:
        for decoder in lean:
            decoder.memory_dtype = dtype
        cache = TalkCache(talker.model.backbone.new_cache(rows, ROOM), talker.model.output_adapter.new_cache(1, ROOM))
        for part in (cache.backbone, cache.output_adapter):
            part.pretend(ROOM)
        caches[str(dtype)[6:]] = cache

    def step(cache: TalkCache, length: int) -> None:
        for part in (cache.backbone, cache.output_adapter):
            part.crop(length)
        run_step(talker, cache, rows, 1)

    # The longest first: a cache can forget what it holds, but not remember it.
    made = {}
    for n in sorted(LENGTHS, reverse=True):
        made[n] = in_turn({k: lambda n=n, cache=cache: step(cache, n) for k, cache in caches.items()}, repeats)
    return dict(sorted(made.items()))


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads.")
    parser.add_argument("--repeats", type=int, default=15, help="Steps of each kind.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False, width=120)
    for title, measure in (("attention alone, ms", alone), ("whole steps, ms", whole)):
        for rows in (2, 1):
            found = measure(rows, arguments.repeats)
            names = list(found[LENGTHS[0]])
            table = Table("steps held", *names, box=None, title=f"{title}, {rows} row(s)", title_justify="left")
            for length, values in found.items():
                cells = (f"{values[k]:.1f} ({values[k] / found[LENGTHS[0]][k]:.2f})" for k in names)
                table.add_row(f"{length:,}", *cells)
            console.print(table)


if __name__ == "__main__":
    main()
