"""Writes the README.md of talker folders and voice folders."""

from __future__ import annotations

from anytalk.model.config import TalkerConfig
from anytalk.model.voice import Voice


def model_card(config: TalkerConfig, name: str) -> str:
    """Return markdown that lists the talker's parts and training, and shows how to use it."""
    base = config.base
    lines = [
        f"# {name}",
        "",
        f"A talker made with anytalk {config.library_version}: a text language model with ears and a voice attached",
        'by the "Any Model Can Talk" method (Mini-Omni, arXiv 2408.16725).',
        "",
        "| part | plugin |",
        "|---|---|",
        f"| base model | `{base.model if base else '?'}` ({base.licence if base else 'licence unknown'}) |",
        f"| backbone | `{config.backbone.name}` |",
        f"| speech encoder | `{config.encoder.name if config.encoder else 'none'}` |",
        *([f"| ears | `{config.ears.name}` |"] if config.ears else []),
        f"| input adapter | `{config.input_adapter.name if config.input_adapter else 'none'}` |",
        f"| output adapter | `{config.output_adapter.name}` |",
        f"| heads | `{config.heads.name}` |",
        f"| codec | `{config.codec.name}` |",
        *([f"| voice | `{config.voice.name}` ({config.voice.licence}) |"] if config.voice else []),
        f"| grid | pattern `{config.grid.pattern}`, merge `{config.grid.merge}`, prompt `{config.grid.prompt}` |",
        "",
        "## Training",
        "",
    ]
    if not config.history and config.voice is not None:
        lines.append("Not trained: the voice came whole, and the text is exactly the base model's.")
    elif not config.history and config.weights is not None:
        lines.append("Trained elsewhere and imported; every part is as it was published.")
    elif not config.history:
        lines.append("Not trained yet: it reads and writes exactly as its base model does, and cannot speak or hear.")
    else:
        lines += ["| stage | trained parts | steps | loss first | loss last | seconds |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {s.name} | {', '.join(s.trained)} | {s.steps} | {s.loss_first:.3f} | {s.loss_last:.3f} | "
            f"{s.seconds:.0f} |"
            for s in config.history
        ]
        lines += [f"\n![loss of {s.name}]({s.curve})" for s in config.history if s.curve]
    lines += [
        "",
        "## Use",
        "",
        "```sh",
        f"anytalk info {name}",
        f"anytalk train {name} --data manifest.jsonl --recipe paper",
        f'anytalk talk {name} --text "Hello!" -o answer.wav',
        "```",
        "",
        "The files here hold only what was trained; the base model, the speech encoder and the codec are found by the",
        "names in `talker.yaml`. Their licences are their own (`anytalk info` lists them).",
        "",
    ]
    return "\n".join(lines)


def voice_card(voice: Voice) -> str:
    """Return markdown that describes a voice and shows how to use it."""
    grid = voice.grid
    return "\n".join(
        [
            f"# {voice.name}",
            "",
            voice.description or "A voice for any language model.",
            "",
            f"Made with anytalk {voice.library_version}. It reads the text that a model writes, and speaks for any",
            "model without training.",
            "",
            "| | |",
            "|---|---|",
            f"| language | {voice.language or 'several, or unknown'} |",
            f"| licence | {voice.licence} |",
            f"| speakers | {', '.join(voice.speakers) or 'one'} |",
            f"| speech decoder | `{voice.output_adapter.name}`, heads `{voice.heads.name}` |",
            f"| codec | `{voice.codec.name}`, {grid.codec_streams} streams of {grid.codebook_size} codes |",
            "",
            "## Use",
            "",
            "```sh",
            f"anytalk attach MODEL -o talker --voice {voice.name}",
            'anytalk talk talker --text "Hello!" -o answer.wav',
            "```",
            "",
        ]
    )
