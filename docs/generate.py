"""Writes what the pages copy from the code: tables, command help, pictures.

``python -m docs.generate`` from the repository root rewrites every block between ``<!-- generated: NAME -->`` and
``<!-- end generated -->`` and draws the pictures. With ``--check`` nothing is written: stale pages and missing pictures
are named, one a line, and the exit status is 1. (How a picture looks depends on the fonts of the machine, so only its
existence is checked.)
"""

from __future__ import annotations

import ast
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic
import typer

from anytalk.cli.app import build_app
from anytalk.data.config import DataConfig, Filters, SourceConfig, VoiceConfig
from anytalk.grid.tasks import TASKS
from anytalk.model.config import AudioGrid, BaseInfo, GridConfig, StageRecord, TalkerConfig, VoiceInfo, WeightsFile
from anytalk.model.voice import Voice
from anytalk.plugins.components import PartRef
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import KINDS, Registry
from anytalk.train.config import LoraConfig, Recipe, StageConfig
from docs.pictures import PICTURES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
ROOMS = ("plugins", "grid", "model", "decode", "text", "data", "train", "evaluate", "bench", "serve", "cli")
"""Left to right, as ``tests/test_rooms.py`` enforces them."""

DATA_KINDS = ("recipe", "voice")
"""What is registered as data: it has no options."""

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are escaped and kept on one line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines
    )


def type_name(annotation: Any) -> str:
    """``Literal['a', 'b']`` -> ``'a' or 'b'``, ``int | None`` -> ``int or null``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is not None:
        return f"{origin.__name__} of {', '.join(type_name(argument) for argument in arguments)}"
    return str(annotation.__name__)


def default_text(field: pydantic.fields.FieldInfo) -> str:
    """A field's default as YAML would have it; ``required`` for none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, pydantic.BaseModel):
        return "see below"
    if value == "":
        return "empty"
    return "`null`" if value is None else f"`{value}`"


def fields_table(model: type[pydantic.BaseModel], heading: str = "field") -> str:
    """The fields of a settings model."""
    rows = [
        (f"`{name}`", type_name(field.annotation), default_text(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    return table((heading, "type", "default", "meaning"), rows)


def first_party_registry() -> Registry:
    """The registry without third parties and whatever the environment blocks: pages don't depend on the machine."""
    return Registry(build_plugins(block=(), third_party=False))


# ---- blocks of configuration.md


def talker_fields() -> str:
    """Every mapping of ``talker.yaml``."""
    sections = (
        ("Top level", TalkerConfig),
        ("A part", PartRef),
        ("`grid`", GridConfig),
        ("`base`", BaseInfo),
        ("`voice`", VoiceInfo),
        ("`weights`", WeightsFile),
        ("One entry of `history`", StageRecord),
    )
    return "\n\n".join(f"### {title}\n\n{fields_table(model)}" for title, model in sections)


def voice_fields() -> str:
    """Every mapping of ``voice.yaml`` that ``talker.yaml`` doesn't have."""
    sections = (("Top level of `voice.yaml`", Voice), ("`grid` of a voice", AudioGrid))
    return "\n\n".join(f"### {title}\n\n{fields_table(model)}" for title, model in sections)


def stage_fields() -> str:
    """A recipe and its stages."""
    sections = (("Recipe", Recipe), ("Stage", StageConfig), ("`lora` of a part", LoraConfig))
    return "\n\n".join(f"### {title}\n\n{fields_table(model)}" for title, model in sections)


def data_fields() -> str:
    """Every mapping of ``data.yaml``."""
    sections = (
        ("Top level", DataConfig),
        ("A source", SourceConfig),
        ("`filters`", Filters),
        ("`voice`", VoiceConfig),
    )
    return "\n\n".join(f"### {title}\n\n{fields_table(model)}" for title, model in sections)


def recipes() -> str:
    """The registered recipes, stage by stage."""
    registry = first_party_registry()
    pieces = []
    for name, offers in registry.components("recipe").items():
        recipe = Recipe.model_validate(registry.load("recipe", name))
        rows = [
            (
                stage.name,
                ", ".join(stage.train),
                ", ".join(stage.tasks),
                str(stage.steps),
                str(stage.batch_size),
                f"{stage.learning_rate:g} to {stage.learning_rate_floor:g}",
            )
            for stage in recipe.stages
        ]
        columns = ("stage", "trains", "tasks", "steps", "rows a step", "learning rate")
        pieces.append(f"### `{name}`\n\n{offers[0].component.summary}\n\n{table(columns, rows)}")
    return "\n\n".join(pieces)


def tasks() -> str:
    """All tasks."""
    yes = {True: "yes", False: "no"}
    rows = [(f"`{t.name}`", t.summary, yes[t.speech_in], yes[t.audio_out], yes[t.text_in_loss]) for t in TASKS.values()]
    return table(("task", "what it is", "speech in", "speech out", "text learnt"), rows)


def part_options() -> str:
    """Every first-party part with its options."""
    registry = first_party_registry()
    pieces = []
    for kind in KINDS:
        if kind in DATA_KINDS:
            continue
        pieces.append(f"### {kind[0].upper()}{kind[1:]}")
        for name, offers in registry.components(kind).items():
            part = registry.load(kind, name)
            licence = f" Licence: {part.licence}." if part.licence != "unknown" else ""
            options = fields_table(part.Options, "option") if part.Options.model_fields else "No options."
            pieces.append(f"#### {kind} `{name}`\n\n{offers[0].component.summary}.{licence}\n\n{options}")
    return "\n\n".join(pieces)


# ---- cli.md


def commands() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(build_app(build_plugins(block=(), third_party=False)))
    pieces = [command_help("anytalk", group, "OPTIONS COMMAND ...")]
    for name, command in every_command(group):
        arguments = [p.name.upper() if p.required else f"[{p.name.upper()}]" for p in visible(command, "argument")]
        usage = "COMMAND ..." if hasattr(command, "commands") else " ".join([*arguments, "[OPTIONS]"])
        pieces.append(command_help(f"anytalk {name}", command, usage))
    return "\n\n".join(pieces)


def every_command(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """All commands with their full names, those of groups behind their group."""
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        found.append((before + name, command))
        if hasattr(command, "commands"):
            found += every_command(command, f"{before}{name} ")
    return found


def visible(command: Any, kind: str) -> list[Any]:
    """A command's arguments or options; hidden ones and shell completion left out."""
    found = [p for p in command.params if p.param_type_name == kind and not getattr(p, "hidden", False)]
    return [p for p in found if not any("completion" in spelling for spelling in p.opts)]


def command_help(title: str, command: Any, usage: str) -> str:
    """One command: heading, help, usage, table."""
    rows = [(f"`{p.name.upper()}`", parameter_default(p), p.help or "") for p in visible(command, "argument")]
    rows += [
        (", ".join(f"`{s}`" for s in [*p.opts, *p.secondary_opts]), parameter_default(p), p.help or "")
        for p in visible(command, "option")
    ]
    body = f"## {title}\n\n{(command.help or '').strip()}\n\n```text\n{title} {usage}\n```"
    return body + (f"\n\n{table(('argument or option', 'default', 'meaning'), rows)}" if rows else "")


def parameter_default(parameter: Any) -> str:
    """What a parameter is when it isn't given."""
    if parameter.required:
        return "required"
    value = parameter.default
    if getattr(parameter, "is_flag", False):
        return "on" if value is True else "off"
    return f"`{value}`" if isinstance(value, str | int | float | Path) and not isinstance(value, bool) else ""


# ---- architecture.md


def modules() -> str:
    """Every module of the core, its rooms and of the first-party plugins, with the first sentence of its docstring."""
    folders = [("anytalk", ROOT / "anytalk"), *((f"anytalk/{room}", ROOT / "anytalk" / room) for room in ROOMS)]
    folders += [
        ("backbones/anytalk_backbones", ROOT / "backbones" / "anytalk_backbones"),
        ("adapters/anytalk_adapters", ROOT / "adapters" / "anytalk_adapters"),
    ]
    pieces = []
    for name, folder in folders:
        found = folder.glob("*.py") if name == "anytalk" else folder.rglob("*.py")
        files = sorted(path for path in found if not path.stem.startswith("__"))
        if files:
            rows = [(f"`{path.relative_to(folder)}`", first_sentence(path)) for path in files]
            pieces.append(f"### `{name}/`\n\n{table(('module', 'what it does'), rows)}")
    return "\n\n".join(pieces)


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, up to its first full stop; reST roles and quotes made Markdown."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    paragraph = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", paragraph).replace("``", "`")
    return re.split(r"(?<=[.])\s+(?=[A-Z])", paragraph)[0]


BLOCKS: dict[str, Callable[[], str]] = {
    "talker-fields": talker_fields,
    "voice-fields": voice_fields,
    "stage-fields": stage_fields,
    "data-fields": data_fields,
    "recipes": recipes,
    "tasks": tasks,
    "part-options": part_options,
    "commands": commands,
    "modules": modules,
}
"""Block name -> its Markdown."""


def render(page: str) -> str:
    """A page with all of its blocks made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", page)


def stale_pages() -> dict[Path, str]:
    """Pages that differ from what they should be -> their right text."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    return {path: fresh for path, page in pages.items() if (fresh := render(page)) != page}


def main(arguments: Sequence[str]) -> int:
    """Rewrite, or with ``--check`` only look; returns the exit status."""
    stale = stale_pages()
    if "--check" in arguments:
        missing = [name for name in PICTURES if not (IMAGES / f"{name}.png").is_file()]
        for path in stale:
            print(f"docs/{path.name} is stale: run `make docs` (or python -m docs.generate)")
        for name in missing:
            print(f"docs/images/{name}.png is missing: run `make docs` (or python -m docs.generate)")
        return 1 if stale or missing else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote docs/{path.name}")
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        draw(IMAGES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
