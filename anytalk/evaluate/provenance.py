"""Record what a report was made with: models with digests and licences, packages and machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import anytalk
from anytalk.errors import AnytalkError
from anytalk.evaluate.config import AnyMeasure, CascadeMeasure, ModalityGapMeasure, Suite
from anytalk.evaluate.mos import PREDICTORS
from anytalk.model.config import PART_KINDS, TalkerConfig
from anytalk.model.talker import Talker
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.registry import Registry
from anytalk.plugins.sources import resolve

PACKAGES = (
    "anytalk", "torch", "transformers", "numpy", "openai-whisper", "jiwer", "snac", "soxr", "soundfile", "piper-tts",
    "onnxruntime", "distillmos", "speechmos",
)  # fmt: skip


def packages() -> dict[str, str]:
    """Return the versions of installed packages that figures depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """Describe the machine that measures."""
    facts = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average_at_start": load_average(),
        "device": device,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def load_average() -> float | None:
    """Return the load average of the last minute; None if the system doesn't have one."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def models(config: TalkerConfig, suite: Suite, registry: Registry) -> list[dict[str, str]]:
    """List every model in the report, with its role, part, digest of weights and licence."""
    found = []
    if config.base is not None:
        base = {"role": "parent", "part": config.base.model, "digest": config.base.fingerprint}
        found.append({**base, "licence": config.base.licence})
    for role, kind in PART_KINDS.items():
        ref: PartRef | None = getattr(config, role)
        if ref is not None:
            found.append(_model(f"talker: {role}", kind, ref, registry) | _built(config, role))
    if config.weights is not None:
        parts = ", ".join(config.weights.parts)
        own = {"role": "talker: trained parts", "part": parts, "digest": config.weights.sha256[:16]}
        found.append({**own, "licence": "yours"})
    if config.voice is not None:
        digest = config.voice.fingerprint[:16]
        found.append({"role": "voice", "part": config.voice.name, "digest": digest, "licence": config.voice.licence})
    found.append(_model("transcriber", "transcriber", suite.transcriber, registry))
    if suite.synthesizer is not None:
        found.append(_model("synthesizer", "synthesizer", suite.synthesizer, registry))
    for measure in suite.measures:
        if isinstance(measure, CascadeMeasure | ModalityGapMeasure):
            for role in ("transcriber", "synthesizer"):
                ref = getattr(measure, role, None)
                if ref is not None:
                    found.append(_model(f"{measure.label}: {role}", role, ref, registry))
    if suite.mos is not None:
        predictor = PREDICTORS[suite.mos]
        found.append(
            {"role": "mos", "part": predictor.package, "digest": "in its package", "licence": predictor.licence}
        )
    return found


def _built(config: TalkerConfig, role: str) -> dict[str, str]:
    """Return facts from talker.yaml that are more precise than a part's options."""
    known: dict[str, str] = {}
    if role == "backbone" and config.base is not None:
        known["licence"] = config.base.licence
    if role == "backbone" and config.backbone_folder is not None:
        known |= {"part": f"{config.backbone.name} ({config.backbone_folder})", "digest": ""}
    if role == "codec" and config.codec_fingerprint is not None:
        known["digest"] = config.codec_fingerprint
    return known


def _model(role: str, kind: str, ref: PartRef, registry: Registry) -> dict[str, str]:
    try:
        options = registry.options(kind, ref)
        licence = str(registry.load(kind, ref.name).licence)
    except AnytalkError as error:
        return {"role": role, "part": ref.name, "digest": "", "licence": f"unknown: {error.message}"}
    shown = ", ".join(f"{key}={value}" for key, value in options.model_dump().items() if value not in (None, [], {}))
    if kind in ("input adapter", "output adapter", "heads"):
        licence = "yours"
    return {
        "role": role,
        "part": f"{ref.name} ({shown})" if shown else ref.name,
        "digest": weights_digest(options),
        "licence": licence,
    }


def weights_digest(options: Options) -> str:
    """Return a digest (half a SHA-256) of the local weight files that options name; "" if there are none."""
    digest, found = hashlib.sha256(), False
    for name in options.weight_sources:
        try:
            paths = resolve(getattr(options, name) or "").paths
        except AnytalkError:
            continue
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found = True
                    with file.open("rb") as opened:
                        digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16] if found else ""


def identity(talker: Talker, suite: Suite, measure: AnyMeasure) -> str:
    """Return a digest of all that a measure's figures depend on: talker, the measure's options, and the suite's."""
    shared = suite.model_dump(mode="json", exclude={"measures", "name"})
    how = [talker.arithmetic, talker.device, torch.get_num_threads()]
    data = [talker.config.model_dump(mode="json"), shared, measure.model_dump(mode="json"), how]
    return hashlib.sha256(json.dumps([anytalk.__version__, *data], sort_keys=True).encode()).hexdigest()[:16]
