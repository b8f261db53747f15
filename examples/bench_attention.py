"""How long a step looks at what came before: a memory in float32 and one in bfloat16, alone and in whole steps.

Alone: the attention of a step of Qwen2-0.5B (24 memories of 2 key heads for 14 queries), through torch and through
``anytalk.plugins.hf.attention``. Whole: steps of the reference stack in ``int8``, without codec and sampling, behind a
prompt that both rows share; "near" is the layout for single steps, in which it lies once (in float32 only where that
spares reading much).

    python examples/bench_attention.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anytalk.bench.decoding import run_step
from anytalk.bench.memory import pretend
from anytalk.bench.reference import reference_talker
from anytalk.decode.ready import make_talker_ready
from anytalk.model.talk_model import TalkCache
from anytalk.plugins.hf import attention
from anytalk.plugins.hf.lean import LeanDecoder

LENGTHS = (256, 1024, 2048, 7000)
ROOM = 7100
_A_TURN = 5
"""Steps one after the other, before the next way has its turn."""
DTYPES = (torch.float32, torch.bfloat16)


def _ms(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the median; whatever else the machine does hits all of them alike."""
    laps = [{name: _ms(run) for name, run in runs.items()} for _ in range(repeats + 1)]
    return {name: statistics.median([lap[name] for lap in laps[1:]]) for name in runs}


def alone(rows: int, repeats: int) -> dict[int, dict[str, float]]:
    """Attention of one step, by length and way."""
    stores = {dtype: torch.randn(24, 2, rows, 2, ROOM, 64).to(dtype) for dtype in DTYPES}
    query, attend = torch.randn(rows, 2, 7, 64), attention.Attention()

    def look(dtype: torch.dtype, length: int, few: int) -> None:
        attention.FEW = few
        for held in stores[dtype]:
            attend(query, held[:, :, :, :length], None, 1)

    ways = {
        "torch, float32": (torch.float32, 0),
        "torch, bfloat16": (torch.bfloat16, 10**9),
        "two products, bfloat16": (torch.bfloat16, 0),
    }
    made = {}
    usual = attention.FEW
    for n in LENGTHS:
        made[n] = in_turn({k: lambda n=n, way=way: look(way[0], n, way[1]) for k, way in ways.items()}, repeats)
    attention.FEW = usual
    return made


def whole(rows: int, repeats: int) -> dict[int, dict[str, float]]:
    """Whole steps of an answer after a prompt that its rows share, by the prompt's length and how it is kept."""
    talker = make_talker_ready(reference_talker(), "int8")
    lean = [module for module in talker.model.modules() if isinstance(module, LeanDecoder)]
    lay_out = LeanDecoder._near
    ways = {
        "float32": (torch.float32, lambda *_: None),
        "float32, near": (torch.float32, lay_out),
        "bfloat16": (torch.bfloat16, lambda *_: None),
        "bfloat16, near": (torch.bfloat16, lay_out),
    }

    def cache_of(length: int, dtype: torch.dtype) -> TalkCache:
        for decoder in lean:
            decoder.memory_dtype = dtype
        room = length + _A_TURN * (repeats + 1)
        model = talker.model
        cache = TalkCache(model.backbone.new_cache(1, room), model.output_adapter.new_cache(1, room))
        run_step(talker, cache, 1, 1)
        for part in (cache.backbone, cache.output_adapter):
            pretend(part, length)
        cache.backbone.keep_rows([0] * rows)
        return cache

    def steps(cache: TalkCache, near: Callable[..., Any]) -> list[float]:
        LeanDecoder._near = near
        return [_ms(lambda: run_step(talker, cache, rows, 1)) for _ in range(_A_TURN)]

    made = {}
    for n in LENGTHS:
        caches = {name: cache_of(n, dtype) for name, (dtype, _) in ways.items()}
        turns = [{name: steps(caches[name], near) for name, (_, near) in ways.items()} for _ in range(repeats)]
        # The first step of a turn finds nothing of its own near.
        made[n] = {name: statistics.median([ms for turn in turns for ms in turn[name][1:]]) for name in ways}
    LeanDecoder._near = lay_out
    return made


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
