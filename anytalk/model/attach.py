"""``attach``: find the plugin that knows a model, probe it, and write a talker folder around it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from anytalk.errors import AnytalkError, ConfigError, TalkerError
from anytalk.model.assemble import assemble, build_codec
from anytalk.model.config import CONFIG_FILE, BaseInfo, TalkerConfig, override, parse_config
from anytalk.model.talker import Talker, fingerprint, save_talker
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, SpeechEncoder
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.sources import PACKAGE_PREFIX, ModelSource, resolve

FALLBACK_BACKBONE = "hf"
DEFAULTS: dict[str, Any] = {
    "encoder": {"name": "whisper", "options": {"model": "small"}},
    "input_adapter": {"name": "mlp"},
    "output_adapter": {"name": "blocks"},
    "heads": {"name": "parallel"},
    "codec": {"name": "spectral"},
}
"""The paper's stack, but for the codec: `spectral` ships with anytalk, `snac` comes from the hub."""


def choose_backbone(source: ModelSource, registry: Registry) -> str:
    """Name of the backbone plugin that recognises a model; ``hf`` when none does.

    A plugin that fails to import is passed over: attach must not depend on somebody else's broken package.
    """
    for name in registry.components("backbone"):
        if name == FALLBACK_BACKBONE:
            continue
        try:
            if registry.load("backbone", name).recognises(source):
                return name
        except AnytalkError:
            continue
    return FALLBACK_BACKBONE


def attach(
    model: str,
    out: Path | str,
    *,
    backbone: str | None = None,
    revision: str | None = None,
    assignments: list[str] | None = None,
    registry: Registry | None = None,
    overwrite: bool = False,
) -> Talker:
    """Attach speech to a language model.

    Args:
        model: Hub id, folder, ``.gguf`` file, or ``package:NAME/PATH``.
        out: The talker folder to write.
        backbone: Name of the backbone plugin; default: the one that recognises the model.
        revision: Hub revision.
        assignments: ``part.options.name=value`` settings over the defaults.
        registry: Where parts are found.
        overwrite: Replace a talker that is already there.

    Returns:
        The talker, saved: untrained, and on the text path bit-identical to its base model.

    Raises:
        TalkerError: `out` is there already.
        AnytalkError: a model, plugin or part that can't be found or doesn't fit; nothing is written then.
    """
    out = Path(out)
    registry = registry or default_registry()
    is_talker = (out / CONFIG_FILE).is_file()
    if out.exists() and not (overwrite and is_talker) and any(out.iterdir() if out.is_dir() else [out]):
        raise TalkerError(f"'{out}' is there already", "choose another -o" + (", or add --overwrite" if is_talker else ""))
    source = resolve(model)
    name = backbone or choose_backbone(source, registry)
    options: dict[str, Any] = {"model": model}
    if revision is not None:
        options["revision"] = revision
    data = override({"backbone": {"name": name, "options": options}, **DEFAULTS}, assignments or [])
    data = {key: _absolute_model(value) for key, value in data.items()}
    draft = parse_config(data, "the settings of attach")

    part: Backbone = registry.build("backbone", draft.backbone, BuildContext())
    config = _probe(draft, data, part, registry)
    base = BaseInfo(
        model=str(draft.backbone.options.get("model", model)),
        revision=revision,
        fingerprint=fingerprint(part),
        licence=part.licence,
    )
    config = config.replace(base=base.model_dump())
    talker = Talker(config, assemble(config, registry, backbone=part), registry)
    _save_whole(talker, out)
    return talker


def _save_whole(talker: Talker, out: Path) -> None:
    """Write beside `out`, then rename: there is a whole talker or none."""
    partial = out.absolute().with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        save_talker(talker, partial)
        if out.is_dir():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    talker.folder = out


def _absolute_model(part: Any) -> Any:
    """Local paths made absolute: weights are looked up from other working folders later on."""
    if not isinstance(part, dict) or not isinstance(part.get("options"), dict):
        return part
    model = part["options"].get("model")
    if isinstance(model, str) and not model.startswith(PACKAGE_PREFIX) and Path(model).expanduser().exists():
        return {**part, "options": {**part["options"], "model": str(Path(model).expanduser().absolute())}}
    return part


def _probe(draft: TalkerConfig, data: dict[str, Any], backbone: Backbone, registry: Registry) -> TalkerConfig:
    """Fill in what only the parts themselves know: widths, codec shape, prompt style."""
    codec = build_codec(draft, registry)
    grid = {**data.get("grid", {}), "codec_streams": codec.num_streams, "codebook_size": codec.codebook_size}
    grid.setdefault("prompt", "chat" if backbone.tokenizer.has_chat_template else "raw")
    encoder_width = 0
    if draft.encoder is not None:
        encoder: SpeechEncoder = registry.build("speech encoder", draft.encoder)
        encoder_width = encoder.width
        if draft.input_adapter is None:
            raise ConfigError("a speech encoder needs an input adapter", "set input_adapter, or encoder=null")
    return parse_config(
        {**draft.model_dump(), "grid": grid, "encoder_width": encoder_width}, "the settings of attach"
    )


__all__ = ["DEFAULTS", "attach", "choose_backbone"]
