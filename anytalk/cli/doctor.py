"""Report what is installed and reachable, and which settings would be slow: ``anytalk doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from anytalk.cli.render import err, out, pairs, say, size
from anytalk.errors import AnytalkError
from anytalk.plugins.registry import KINDS, Registry, default_registry

_PACKAGES = ("anytalk", "torch", "transformers", "safetensors")
_OPTIONAL = ("accelerate", "datasets", "deepspeed", "fastapi", "matplotlib", "openai", "peft", "sounddevice")
_LOW_DISK_BYTES = 5 * 10**9
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "bf16", "bf16": "bf16"}
"""Maps CPU flags that speed up answers to the names that are printed."""


def command() -> None:
    """Report installed packages, reachable services and settings that would be slow."""
    with err.status("looking ..."):
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
        say("[green]No cause of slowness was found.[/]")


def _machine() -> tuple[list[tuple[str, str]], list[str]]:
    # Containers may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = _gpu() if _gpu_is_there() else ""
    flags = _cpu_flags()
    features = [name for flag, name in _FEATURES.items() if flag in flags]
    # The variable may list a number for each level of nested parallelism.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(asked) if asked.isdigit() else cores
    rows = [
        ("Python", platform.python_version()),
        ("torch", f"{_version('torch')}, built for {_built_for()}"),
        ("GPU", gpu or "none that torch can use"),
        ("CPU", ", ".join([f"{cores} cores for this process", f"torch may use {threads} threads", *features])),
    ]
    slow = []
    if not gpu and _gpu_is_there():
        slow.append("there is a GPU, but torch can't use it: install a build of torch for it (pytorch.org)")
    if threads < cores:
        slow.append(f"torch uses {threads} of {cores} cores: unset OMP_NUM_THREADS, or give --threads {cores}")
    if not gpu:
        slow.append("the codec 'snac' is heavy without a GPU: 'heart' is made for CPUs")
        # Where no flags can be read (macOS), arm64 is assumed to have bf16.
        if not (flags & _BF16_FLAGS or (not flags and platform.machine() == "arm64")):
            slow.append("this CPU has no bf16 arithmetic: --precision bf16 would be emulated; leave it at 'no'")
    if flags and "avx" not in flags and platform.machine() in ("x86_64", "AMD64"):
        slow.append("this CPU has no AVX: everything runs several times slower")
    return rows, slow


def _built_for() -> str:
    """Return ``CPU only`` or torch's CUDA version, from its version file: importing torch takes a second."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "nothing: it is not installed"
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"""^cuda\b[^=\n]*= *['"]([^'"]+)""", text, re.MULTILINE)
    return f"CUDA {found[1]}" if found else "CPU only"


def _gpu_is_there() -> bool:
    devices = (Path("/dev/nvidia0"), Path("/dev/kfd"))  # NVIDIA's and AMD's
    return any(device.exists() for device in devices) or shutil.which("nvidia-smi") is not None


def _gpu() -> str:
    """Return the name of the GPU that torch uses, or "" if there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def _cpu_flags() -> set[str]:
    """Return the flags of the CPU from ``/proc/cpuinfo``; empty on other systems than Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def used_by_parts(registry: Registry) -> dict[str, str]:
    """Map everything that installed parts declare in ``Component.uses`` to the names of these parts."""
    users: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, offers in registry.components(kind).items():
            for used in offers[0].component.uses:
                users.setdefault(used, []).append(f"{kind} '{name}'")
    return {used: ", ".join(parts) for used, parts in users.items()}


def _of_kind(uses: dict[str, str], kind: str) -> dict[str, str]:
    """Select what is needed of one kind, such as ``"package"``, and drop the prefix from the names."""
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
