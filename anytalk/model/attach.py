"""Implements ``attach``: finds the plugin that knows a model, probes its parts, and writes a talker folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from anytalk.errors import AnytalkError, ConfigError, TalkerError
from anytalk.files import written_whole
from anytalk.model.assemble import assemble, build_codec
from anytalk.model.checks import check_template, check_weights
from anytalk.model.config import (
    CONFIG_FILE,
    PART_KINDS,
    BaseInfo,
    TalkerConfig,
    make_room_for_ears,
    override,
    parse_config,
)
from anytalk.model.own_files import copy_files, own_files, writing
from anytalk.model.talker import Talker, save_talker
from anytalk.model.voice import VOICE_PARTS, ears_are_chosen, find_voice, refuse_fixed_settings
from anytalk.model.voice_parts import load_voice
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone, Ears, ServedBackbone, SpeechEncoder
from anytalk.plugins.endpoint import is_address
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.sources import ModelSource, is_there, resolve

log = logging.getLogger("anytalk")
FALLBACK_BACKBONE = "hf"
EARS_OF_VOICES = "transcript"
DEFAULTS: dict[str, Any] = {
    "encoder": {"name": "whisper"},
    "input_adapter": {"name": "mlp"},
    "output_adapter": {"name": "blocks"},
    "heads": {"name": "parallel"},
}
"""The paper's parts; only the codec depends on what is installed, see :func:`default_codec`."""
DEFAULTS_OF_SERVED = {**DEFAULTS, "encoder": None, "input_adapter": None, "output_adapter": {"name": "talker"}}
"""Parts for a served model, which need only its text."""


def default_codec(registry: Registry) -> str:
    """Return the codec to use if none was chosen: the one with the highest ``Component.rank``.

    Raises:
        ConfigError: No codec is installed.
    """
    ranks = {name: offers[0].component.rank for name, offers in registry.components("codec").items()}
    if not ranks:
        raise ConfigError("no codec is installed", "install a package that provides one")
    return max(ranks, key=lambda name: ranks[name])


def choose_backbone(source: ModelSource, registry: Registry) -> str:
    """Return the name of the backbone plugin that recognises a model, or ``hf`` if none does.

    A plugin that fails is skipped, so that attach doesn't depend on somebody else's broken package.

    Raises:
        ConfigError: More than one plugin recognises the model.
    """
    found = []
    for name in registry.components("backbone"):
        try:
            if name != FALLBACK_BACKBONE and registry.load("backbone", name).recognises(source):
                found.append(name)
        except AnytalkError:  # the plugin can't be imported; `anytalk plugins` reports it
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even raise SystemExit
            log.warning("the backbone plugin '%s' is left out, it can't look at '%s': %s", name, source.spec, error)
    if len(found) > 1:
        raise ConfigError(
            f"the backbone plugins {' and '.join(found)} both recognise '{source.spec}'",
            f"choose one: --backbone {found[0]}, or --backbone {found[1]}",
        )
    return found[0] if found else FALLBACK_BACKBONE


def needs_no_model(model: str, backbone: str | None, registry: Registry) -> bool:
    """Return whether `model` names a backbone plugin that makes its own weights (``attach tiny``).

    That is so if the plugin can be built without options, no other plugin was asked for, and no file or folder has that
    name (a path takes precedence).
    """
    if backbone not in (None, model) or model not in registry.components("backbone") or Path(model).exists():
        return False
    fields = registry.load("backbone", model).Options.model_fields.values()
    return not any(field.is_required() for field in fields)


def attach(
    model: str,
    out: Path | str,
    *,
    backbone: str | None = None,
    revision: str | None = None,
    assignments: list[str] | None = None,
    voice: str | Path | None = None,
    registry: Registry | None = None,
    overwrite: bool = False,
) -> Talker:
    """Attach speech to a language model.

    Args:
        model: A hub id, a folder, a ``.gguf`` file, ``package:NAME/PATH``, a plugin's name (:func:`needs_no_model`), or
            the address of an OpenAI-compatible endpoint, whose model `assignments` name:
            ``backbone.options.name=NAME``.
        out: The talker folder to write.
        backbone: Name of the backbone plugin; by default the one that recognises the model.
        revision: Hub revision.
        assignments: Settings ``part.options.name=value`` that override the defaults.
        voice: Name or folder of a trained voice. If the settings choose no ears, the talker gets those that the voice
            suggests, or else ``transcript``, if they can be built here.
        registry: The registry that parts are found in.
        overwrite: Whether to replace a talker that is already there.

    Returns:
        The talker, saved. Only its voice is trained, and its text is bit-identical to its base model's.

    Raises:
        TalkerError: `out` exists already.
        AnytalkError: A model, plugin, part or voice can't be found or doesn't fit; nothing is written then.
    """
    out, assignments = Path(out), assignments or []
    registry = registry or default_registry()
    check_vacant(out, overwrite)
    chosen_voice = None if voice is None else find_voice(str(voice), registry)
    # 1) Find the model and its plugin.
    is_plugin_name = needs_no_model(model, backbone, registry)
    source = None if is_plugin_name else ModelSource(model) if is_address(model) else resolve(model)
    if source is not None and (Path(model) / CONFIG_FILE).is_file():
        raise ConfigError(
            f"'{model}' is already a talker", "give the model that it was made from: `anytalk info` names it"
        )
    name = backbone or (model if source is None else choose_backbone(source, registry))
    sources: tuple[str, ...] = registry.load("backbone", name).Options.weight_sources
    if source is not None and not sources:
        raise ConfigError(f"backbone '{name}' makes its own weights and takes no model", f"anytalk attach {name} ...")
    options: dict[str, Any] = {} if source is None else {sources[0]: source.spec}
    if revision is not None:
        options["revision"] = revision
    is_served = issubclass(registry.load("backbone", name), ServedBackbone)
    # 2) Merge the settings: defaults, then the user's assignments, then what a voice fixes.
    defaults = DEFAULTS_OF_SERVED if is_served else DEFAULTS
    parts = {"backbone": {"name": name, "options": options}, "codec": {"name": default_codec(registry)}}
    data = override({**defaults, **parts}, assignments)
    data = make_room_for_ears(data, assignments)
    data |= {
        role: _with_absolute_paths(data[role], kind, registry) for role, kind in PART_KINDS.items() if role in data
    }
    ears = None
    if chosen_voice is not None:
        refuse_fixed_settings(assignments)
        data = chosen_voice.settings(data)
    if (is_served or chosen_voice is not None) and not ears_are_chosen(assignments):
        ref, ears = _build_ears(None if chosen_voice is None else chosen_voice.voice.ears, registry)
        data |= {"encoder": None, "input_adapter": None, "ears": ref}
    elif _lacks_weights(data.get("ears"), registry):
        data["ears"], ears = _first_built(_usual(PartRef.model_validate(data["ears"]), registry), registry)
    draft = parse_config(data, "the settings of attach")

    # 3) Build the backbone and check it, before anything is written.
    part: Backbone = registry.build("backbone", draft.backbone, BuildContext())
    if isinstance(part, ServedBackbone):
        part.check()
    unusual = check_weights(part, model)
    folder = None if chosen_voice is None else chosen_voice.folder
    config = _probe(draft, data, part, registry, folder)
    check_template(part, config.grid)
    named = draft.backbone.options.get(sources[0], model) if sources else model
    base = BaseInfo(
        model=part.title if isinstance(part, ServedBackbone) else str(named),
        revision=revision,
        fingerprint=fingerprint(part),
        licence=part.licence,
        findings=[*part.findings, *unusual],
    )
    config = config.replace(base=base.model_dump())
    talker = Talker(config, assemble(config, registry, folder=folder, backbone=part, ears=ears), registry)
    # 4) Write the folder beside `out`, and put it in place when it is complete.
    with writing(out), written_whole(out) as partial:
        if chosen_voice is not None:
            load_voice(talker.model, chosen_voice)
            copy_files(own_files(chosen_voice.folder, chosen_voice.voice.refs), partial)
        save_talker(talker, partial, set() if chosen_voice is None else set(VOICE_PARTS))
    talker.folder = out
    return talker


def _build_ears(voices: PartRef | None, registry: Registry) -> tuple[dict[str, Any] | None, Ears | None]:
    """Build transcribing ears if none were chosen, a voice's own first; return None with a warning if all fail."""
    try:
        candidates = [] if voices is None else [voices]
        try:
            candidates += _usual(PartRef(name=EARS_OF_VOICES), registry)
        except AnytalkError:
            if not candidates:
                raise
        return _first_built(candidates, registry)
    except AnytalkError as error:
        log.warning("the talker gets no ears, only typed questions: %s (%s)", error.message, error.hint)
        return None, None


def _lacks_weights(ears: Any, registry: Registry) -> bool:
    """Return whether settings name transcribing ears without the weights that they are to use."""
    if not isinstance(ears, dict) or "name" not in ears:
        return False
    sources = registry.load("ears", ears["name"]).Options.weight_sources
    return bool(sources) and not any((ears.get("options") or {}).get(source) for source in sources)


def _usual(chosen: PartRef, registry: Registry) -> list[PartRef]:
    """List the usual options of chosen ears, each with the chosen options over them."""
    usual = registry.load("ears", chosen.name).usual_options()
    return [PartRef(name=chosen.name, options={**options, **chosen.options}) for options in usual]


def _first_built(candidates: list[PartRef], registry: Registry) -> tuple[dict[str, Any], Ears]:
    """Build the first ears that can be built.

    Raises:
        AnytalkError: None can be built; this is the error of the first one.
    """
    first: AnytalkError | None = None
    for ref in candidates:
        try:
            ears: Ears = registry.build("ears", ref)
        except AnytalkError as error:
            first = first or error
        else:
            return ref.model_dump(), ears
    raise first or ConfigError("ears without usual options were chosen", "name their weights: --ears-model FILE")


def check_vacant(out: Path, overwrite: bool, mark: str = CONFIG_FILE) -> None:
    """Refuse to write to an existing path, unless it holds a file `mark` (a talker) and `overwrite` is set.

    Raises:
        TalkerError: `out` exists already.
    """
    is_ours = (out / mark).is_file()
    # An empty folder may be written to in any case.
    if out.exists() and not (overwrite and is_ours) and any(out.iterdir() if out.is_dir() else [out]):
        raise TalkerError(f"'{out}' already exists", "choose another -o" + (", or add --overwrite" if is_ours else ""))


def _with_absolute_paths(part: Any, kind: str, registry: Registry) -> Any:
    """Make local paths absolute, because the talker will be loaded from other working folders."""
    if not isinstance(part, dict) or not isinstance(part.get("options"), dict) or "name" not in part:
        return part
    options = dict(part["options"])
    for name in registry.load(kind, part["name"]).Options.weight_sources:
        path = Path(options[name]).expanduser() if isinstance(options.get(name), str) else Path()
        if path.parts and is_there(path):
            options[name] = str(path.absolute())
    return {**part, "options": options}


def _probe(
    draft: TalkerConfig, data: dict[str, Any], backbone: Backbone, registry: Registry, folder: Path | None
) -> TalkerConfig:
    """Fill in what only the built parts know: widths, the codec's shape and fingerprint, the prompt style."""
    codec = build_codec(draft, registry, folder)
    grid = {**data.get("grid", {}), "codec_streams": codec.num_streams, "codebook_size": codec.codebook_size}
    grid.setdefault("prompt", "chat" if backbone.tokenizer.has_chat_template else "raw")
    encoder_width = 0
    if draft.encoder is not None:
        encoder: SpeechEncoder = registry.build("speech encoder", draft.encoder)
        encoder_width = encoder.width
        if draft.input_adapter is None:
            raise ConfigError("a speech encoder needs an input adapter", "set input_adapter, or encoder=null")
    probed = {
        **draft.model_dump(),
        "grid": grid,
        "encoder_width": encoder_width,
        "codec_fingerprint": codec.fingerprint,
    }
    if draft.encoder is None:
        probed["input_adapter"] = None
    return parse_config(probed, "the settings of attach")
