"""`make fuzz`: tries changed inputs of every kind for some minutes, and says how many there were and what they found.

Each kind runs in a process of its own, so that a crash of a library costs that kind and names its input. Inputs that
found something are written to files; the same seed tries the same inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import multiprocessing
import os
import pickle
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("ANYTALK_BLOCK_PLUGINS", "heart")

from fuzz_data import data_kinds
from fuzz_events import event_kind
from fuzz_lab import Found, Kind, bounded_memory, for_seconds, search
from fuzz_models import model_kinds

LAST, STUCK_S = "last-input", 120.0


def kinds_in(folder: Path, stack: ExitStack) -> list[Kind]:
    """All kinds, their files in `folder`."""
    for name in ("data", "models"):
        (folder / name).mkdir()
    return [*data_kinds(folder / "data"), *model_kinds(folder / "models"), stack.enter_context(event_kind())]


def work(number: int, seed: int, seconds: float, out: Path, end: Any) -> None:
    """Search one kind, in a process of its own."""
    faulthandler.enable()
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as place, ExitStack() as stack:
        os.environ["ANYTALK_CACHE_DIR"] = f"{place}/cache"
        (Path(place) / "files").mkdir()
        kind = kinds_in(Path(place) / "files", stack)[number]
        found = Found()

        def keep(given: Any) -> None:
            (out / LAST).write_bytes(as_bytes(given))

        with bounded_memory():
            search(kind, seed, for_seconds(seconds), found, keep)
        end.send((kind.name, found))


def as_bytes(given: Any) -> bytes:
    return given if isinstance(given, bytes) else pickle.dumps(given) if not isinstance(given, str) else _plain(given)


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="where inputs that found something go")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, ExitStack() as stack:
        names = [kind.name for kind in kinds_in(Path(place), stack)]
    everything, crashes = Found(), 0
    context = multiprocessing.get_context("fork")  # what takes long to import is there already
    for number, name in enumerate(names):
        receiving, sending = context.Pipe(duplex=False)
        seconds = 60 * chosen.minutes / len(names)
        process = context.Process(target=work, args=(number, chosen.seed, seconds, chosen.out, sending))
        process.start()
        sending.close()
        found = wait_for(process, receiving, chosen.out / LAST)
        if found is None:
            crashes += 1
            kept = chosen.out / f"crash-{name.replace(' ', '-').replace(',', '')}"
            (chosen.out / LAST).replace(kept)
            print(f"{name}: the process ended ({process.exitcode}) on the input {kept}", flush=True)
            continue
        print(f"{name}: {found.tried[name]:,} inputs, {found.accepted[name]:,} accepted, ", end="")
        print(f"{len(found.faults)} kinds of fault", flush=True)
        everything.tried += found.tried
        everything.faults |= found.faults
        everything.counts += found.counts
    for place_of, (signature, (_, given, shown)) in enumerate(everything.faults.items()):
        file = chosen.out / f"fault-{chosen.seed}-{place_of}"
        file.write_bytes(as_bytes(given))
        file.with_suffix(".txt").write_text(f"{signature}\n{shown}", encoding="utf-8", errors="backslashreplace")
        print(f"{everything.counts[signature]} x {signature}; the first is {file}")
    total = sum(everything.tried.values())
    print(f"{total:,} inputs, {len(everything.faults)} kinds of fault, {crashes} crashes")
    sys.exit(1 if everything.faults or crashes else 0)


def wait_for(process: Any, receiving: Any, last: Path) -> Found | None:
    """What a process has found; None where it crashed, or got stuck in one input and was ended."""
    began = time.time()
    while True:
        try:
            if receiving.poll(1.0):
                found: Found = receiving.recv()[1]
                process.join(30)
                return found
        except EOFError:
            process.join(30)
            return None
        if time.time() - max(began, last.stat().st_mtime if last.exists() else 0) > STUCK_S:
            process.kill()


if __name__ == "__main__":
    main()
