"""``anytalk doctor``: what is installed, what is reachable, and what would be slow by accident."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from anytalk.cli.render import err, out, pairs, say, size
from anytalk.errors import AnytalkError
from anytalk.plugins.registry import KINDS, Registry, default_registry

_PACKAGES = ("anytalk", "torch", "transformers", "accelerate", "safetensors")
_OPTIONAL = ("sounddevice", "deepspeed", "peft", "datasets")
_LOW_DISK_BYTES = 5 * 10**9


def command() -> None:
    """Report what is installed, what can be reached, and what would be slow by accident."""
    with err.status("looking (loading torch) ..."):
        machine, slow = _machine()
        uses = used_by_parts(default_registry())
        sections = {
            "Machine": machine,
            "Packages": _packages(uses),
            "Weights at hand": _weights(uses),
            "Programs and devices": _programs(uses),
            "Disk": _disk(slow),
            "Plugins": _plugins(),
        }
    for title, rows in sections.items():
        out.print(pairs(title, rows))
        out.print()
    if slow:
        say("[bold yellow]Slow or risky[/]")
        for remark in slow:
            out.print(f"  - {remark}", markup=False, soft_wrap=True)
    else:
        say("[green]Nothing here looks slow by accident.[/]")


def _machine() -> tuple[list[tuple[str, str]], list[str]]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    has_cuda = torch.cuda.is_available()
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    rows = [
        ("Python", platform.python_version()),
        ("torch", f"{torch.__version__}, built for {build}"),
        ("GPU", torch.cuda.get_device_name(0) if has_cuda else "none that torch can use"),
        ("CPU", f"{cores} cores for this process, torch uses {threads} threads, {capability}"),
    ]
    slow = []
    if not has_cuda and _nvidia_is_there():
        slow.append("an NVIDIA GPU is there, but torch can't use it: install a CUDA build of torch (pytorch.org)")
    if threads < cores:
        slow.append(f"torch uses {threads} of {cores} cores: unset OMP_NUM_THREADS, or give --threads {cores}")
    if not has_cuda:
        slow.append("the codec 'snac' is heavy without a GPU: 'spectral' is made for CPUs")
        if not _cpu_has_bf16():
            slow.append("this CPU has no bf16 arithmetic: --precision bf16 would be emulated; leave it at 'no'")
    if "avx" not in capability.lower() and platform.machine() in ("x86_64", "AMD64"):
        slow.append("torch finds no AVX on this CPU: everything runs several times slower")
    return rows, slow


def _nvidia_is_there() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux: Apple's chips have it, elsewhere nobody says
        return platform.machine() == "arm64"
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags.split()


def used_by_parts(registry: Registry) -> dict[str, str]:
    """What the installed parts say that they use (``Component.uses``) -> which parts do."""
    users: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, offers in registry.components(kind).items():
            for used in offers[0].component.uses:
                users.setdefault(used, []).append(f"{kind} '{name}'")
    return {used: ", ".join(parts) for used, parts in users.items()}


def _of_kind(uses: dict[str, str], kind: str) -> dict[str, str]:
    """Names of one kind (``"package"`` ...) without it -> the parts that use them."""
    return {name.removeprefix(f"{kind}:"): parts for name, parts in uses.items() if name.startswith(f"{kind}:")}


def _packages(uses: dict[str, str]) -> list[tuple[str, str]]:
    rows = [(name, _version(name)) for name in _PACKAGES]
    rows += [(name, f"{_version(name)} ({parts})") for name, parts in uses.items() if ":" not in name]
    return rows + [(f"{name} (optional)", _version(name)) for name in _OPTIONAL]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _weights(uses: dict[str, str]) -> list[tuple[str, str]]:
    rows = []
    for package, parts in _of_kind(uses, "package").items():
        state = "installed" if find_spec(package) else f"not installed: pip install {package.replace('_', '-')}"
        rows.append((package, f"{state} ({parts})"))
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    for name in _of_kind(uses, "cache"):
        folder = caches / name
        found = sorted(path.stem for path in folder.iterdir()) if folder.is_dir() else []
        rows.append((f"{name.capitalize()} cache", ", ".join(found) or f"empty ({folder})"))
    rows.append(("hub cache", _hub_cache()))
    if os.environ.get("HF_HUB_OFFLINE"):
        rows.append(("hub", "offline: HF_HUB_OFFLINE is set"))
    return rows


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    names = [path.name.removeprefix("models--").replace("--", "/") for path in sorted(folder.glob("models--*"))]
    return ", ".join(names) or f"empty ({folder})"


def _programs(uses: dict[str, str]) -> list[tuple[str, str]]:
    programs = {**_of_kind(uses, "program"), "ffmpeg": "converting sound files"}
    rows = [(name, f"{shutil.which(name) or 'not found'} ({use})") for name, use in programs.items()]
    rows.append(("sound devices", _sound_devices()))
    return rows


def _sound_devices() -> str:
    from anytalk.cli.sound_device import load_sounddevice

    try:
        devices = load_sounddevice().query_devices()
    except AnytalkError as error:
        return f"{error.message} ({error.hint})"
    return ", ".join(str(device["name"]) for device in devices) or "none"


def _disk(slow: list[str]) -> list[tuple[str, str]]:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _LOW_DISK_BYTES:
        slow.append(f"only {size(free)} are free here: a backbone-training stage writes the whole model twice")
    return [("free here", size(free))]


def _plugins() -> list[tuple[str, str]]:
    plugins = default_registry().plugins
    rows = [(name, f"{info.distribution} {info.version}") for name, info in plugins.loaded.items()]
    return rows + [(name, f"FAILED: {reason}") for name, reason in plugins.failures.items()]
