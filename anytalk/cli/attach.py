"""Attach speech parts to a language model: ``anytalk attach``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anytalk.cli.render import commands, count, err, note, out, pairs, size, table
from anytalk.errors import ConfigError
from anytalk.model.config import PART_KINDS, make_room_for_ears, override, parse_config
from anytalk.model.voice import VOICE_PARTS, ears_are_chosen, find_voice, refuse_fixed_settings
from anytalk.plugins.endpoint import is_address
from anytalk.plugins.registry import default_registry

if TYPE_CHECKING:
    from anytalk.model.talker import Talker

_NEEDED = ("backbone", "output_adapter", "heads", "codec")


def command(
    model: str = typer.Argument(
        help="Hub id, folder, .gguf file, package:NAME/PATH, name of a backbone plugin, or address of an endpoint."
    ),
    out_folder: Path = typer.Option(..., "-o", "--out", help="Talker folder to write."),
    backbone: str | None = typer.Option(None, help="Backbone plugin; default: the one that recognises the model."),
    encoder: str | None = typer.Option(None, help="Speech encoder, or 'none' for a talker that only reads."),
    encoder_model: str | None = typer.Option(None, help="Weights of the speech encoder, e.g. small, tiny.en, a file."),
    ears: str | None = typer.Option(
        None, help="Transcribing ears, used instead of an encoder and input adapter: transcript."
    ),
    ears_model: str | None = typer.Option(None, help="Whisper weights of the ears, e.g. base, tiny.en, a file."),
    voice: str | None = typer.Option(
        None, help="Trained voice: a name from `anytalk voices`, or a folder. The talker can speak at once."
    ),
    codec: str | None = typer.Option(None, help="Codec."),
    input_adapter: str | None = typer.Option(None, help="Adapter from encoder features to embeddings."),
    output_adapter: str | None = typer.Option(None, help="Adapter between the backbone and the audio heads."),
    heads: str | None = typer.Option(None, help="Audio heads."),
    assignments: list[str] = typer.Option([], "--set", help="Any setting of talker.yaml: a.b=c. May be repeated."),
    revision: str | None = typer.Option(None, help="Hub revision of the model."),
    name: str | None = typer.Option(None, "--model", help="Name of the model at an OpenAI-compatible endpoint."),
    key_from: str | None = typer.Option(
        None, help="Environment variable with the endpoint's key; default: OPENAI_API_KEY. Only its name is kept."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing talker."),
    seed: int = typer.Option(0, help="Seed for the weights of new parts."),
) -> None:
    """Attach ears and a voice to a language model and write a talker folder."""
    parts = {
        "encoder": encoder,
        "input_adapter": input_adapter,
        "ears": ears,
        "output_adapter": output_adapter,
        "heads": heads,
        "codec": codec,
    }
    settings = part_settings(parts, {"encoder": encoder_model, "ears": ears_model}, seed)
    settings += served_settings(model, {"name": name, "key_from": key_from}) + assignments
    check_settings(settings, backbone, voice)
    with err.status("looking for the model and its plugin (loading torch) ..."):
        from anytalk.model.attach import attach
    with err.status(f"attaching speech to {model} ..."):
        talker = attach(
            model,
            out_folder,
            backbone=backbone,
            revision=revision,
            assignments=settings,
            voice=voice,
            overwrite=overwrite,
        )
    _show(talker, out_folder, settings)


def part_settings(parts: dict[str, str | None], models: dict[str, str | None], seed: int) -> list[str]:
    """Turn the options for parts into ``--set`` assignments.

    Raises:
        ConfigError: options that contradict each other, e.g. ``--encoder none`` with ``--encoder-model``.
    """
    settings = [f"seed={seed}"]
    for part, name in parts.items():
        if name is not None and name.lower() == "none" and part == "encoder":
            if models["encoder"] is not None or parts["input_adapter"] is not None:
                raise ConfigError(
                    "--encoder none leaves the ears out, but parts of them are set",
                    "leave out --encoder-model and --input-adapter, or name an encoder",
                )
            settings += ["encoder=null", "input_adapter=null", "ears=null"]
        elif name is not None:
            # Assignments are YAML, and JSON is valid YAML.
            settings.append(f"{part}={json.dumps({'name': name})}")
    if models["ears"] is not None and parts["ears"] is None:
        raise ConfigError("--ears-model names weights, but no ears that write are set", "add --ears transcript")
    settings += [f"{part}.options.model={json.dumps(model)}" for part, model in models.items() if model is not None]
    return settings


def served_settings(model: str, options: dict[str, str | None]) -> list[str]:
    """Turn the options for an endpoint into ``--set`` assignments; ConfigError if `model` isn't an address."""
    given = {option: value for option, value in options.items() if value is not None}
    if given and not is_address(model):
        raise ConfigError(
            f"--model and --key-from belong to an endpoint, and '{model}' isn't an address",
            "give its address: anytalk attach http://127.0.0.1:8000/v1 --model NAME -o FOLDER",
        )
    return [f"backbone.options.{option}={json.dumps(value)}" for option, value in given.items()]


def check_settings(settings: list[str], backbone: str | None, voice: str | None = None) -> None:
    """Check field names and the names of parts and voices before torch is imported.

    Raises:
        AnytalkError: a name that no plugin offers, or all wrong fields at once.
    """
    registry = default_registry()
    if backbone is not None:
        registry.find("backbone", backbone)
    # The model decides which plugin "default" means, so only the given names are checked here.
    data = override({part: {"name": "default"} for part in (*_NEEDED, "encoder")}, settings)
    data = make_room_for_ears(data, settings)
    if voice is not None:
        refuse_fixed_settings(settings)
        data = find_voice(voice, registry).settings(data)
    parse_config(data, "the settings of attach")
    for part, kind in PART_KINDS.items():
        name = (data.get(part) or {}).get("name", "default")
        if name != "default":
            registry.find(kind, name)


def _show(talker: Talker, folder: Path, settings: list[str]) -> None:
    config, model, voice = talker.config, talker.model, talker.config.voice
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts().items()}
    given = {"backbone", "encoder"}
    rows = []
    for name, total in parts.items():
        ref = getattr(config, name, None)
        state, licence = "new, untrained", "yours"
        if name in given:
            state, licence = "pretrained, frozen", str(getattr(getattr(model, name), "licence", "unknown"))
        elif voice is not None and name in VOICE_PARTS:
            state, licence = f"of the voice {voice.name}", voice.licence
        rows.append((name, getattr(ref, "name", "built in"), count(total), state, licence))
    if model.ears is not None and config.ears is not None:
        ears_total = sum(p.numel() for p in model.ears.parameters())
        rows.append(("ears", config.ears.name, count(ears_total), "pretrained, frozen", model.ears.licence))
    codec = talker.codec
    codec_total = sum(p.numel() for p in codec.parameters())
    rows.append(("codec", config.codec.name, count(codec_total), "pretrained, frozen", codec.licence))
    columns = ("part", "plugin", "parameters", "state", "licence of the weights")
    out.print(table(f"{folder.name}: parts", columns, rows, numbers=("parameters",)))
    out.print()
    out.print(pairs("What fits", _facts(talker, parts, codec_total, settings)))
    out.print()
    manifest = "manifest.jsonl"
    # A talker with a voice or an endpoint can speak at once; any other one has to be trained first.
    if voice is not None or _is_served(talker):
        commands("Type next", [f'anytalk talk {folder} --text "Hello!" -o answer.wav', f"anytalk serve {folder}"])
        if not ears_are_chosen(settings) and config.ears is not None:
            note(f"ears: {config.ears.name}, chosen because they need no training; --ears or --encoder choose others")
        return
    commands(
        "Type next",
        [
            f'anytalk talk {folder} --text "Hello!" --text-only',
            f"anytalk voice texts.jsonl -o data --answers-from {folder}",
            f"anytalk train {folder} --data data/{manifest} --recipe demo",
            f"anytalk info {folder}",
        ],
    )
    if not any(setting.startswith(("codec=", "codec.name=")) for setting in settings):
        note(f"codec: {config.codec.name}, the default here; --codec chooses another")
    if any(part.name == "tiny" for part in (config.backbone, config.codec)):
        note("'tiny' parts are for trying things out: they hold no knowledge and no voice")


def _is_served(talker: Talker) -> bool:
    from anytalk.plugins.contracts import ServedBackbone

    return isinstance(talker.model.backbone, ServedBackbone)


def _facts(talker: Talker, parts: dict[str, int], codec_total: int, settings: list[str]) -> list[tuple[str, str]]:
    grid, codec = talker.config.grid, talker.codec
    pattern = grid.delay_pattern()
    new = sum(total for name, total in parts.items() if name not in ("backbone", "encoder"))
    everything = sum(parts.values()) + codec_total
    steps = codec.frame_rate_hz * pattern.steps_per_frame
    has_template = talker.model.backbone.tokenizer.has_chat_template
    style_was_set = any(setting.startswith("grid.prompt=") for setting in settings)
    why = "you set it" if style_was_set else f"the tokenizer has {'a' if has_template else 'no'} chat template"
    base = talker.config.base
    text_path = "bit-identical to the base model until a stage trains the backbone"
    if _is_served(talker):
        why, text_path = "its server takes messages", "as its server writes it, spoken as it arrives"
    return [
        ("base model", f"{base.model if base else '?'} (plugin {talker.config.backbone.name})"),
        ("trained talker on disk", f"{size(new * 4)} in fp32 ({size(new * 2)} in fp16), base model not counted"),
        ("memory for the weights", f"{size(everything * 4)} in fp32"),
        (
            "streams",
            f"{pattern.num_audio_streams} audio + 1 text; {pattern.codebook_size} codes, pattern '{grid.pattern}'",
        ),
        ("steps per second of speech", f"{steps:.1f} ({codec.sample_rate_hz} Hz, {codec.frame_rate_hz:.1f} frames/s)"),
        ("prompt style", f"{grid.prompt} ({why})"),
        ("found", "\n".join(base.findings if base else ()) or "nothing unusual"),
        ("text path", text_path),
    ]
