"""The pages against the code: generated blocks, commands, links, options, pictures, and the site itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from anytalk.cli.app import build_app
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SCREENSHOTS = {
    "serve",
    "step",
    *(f"mini-paper-{name}" for name in ("alignment", "adaption", "multimodal", "annealing", "questions")),
}
"""Pictures that no code draws."""
MAX_PICTURE_BYTES = 150_000


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build_app(build_plugins(block=(), third_party=False)))


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    import docs.generate

    return docs.generate


def fenced(page: Path, languages: tuple[str, ...]) -> list[str]:
    """The fenced blocks of some languages."""
    text = page.read_text(encoding="utf-8")
    return [body for lang, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S) if lang in languages]


def commands_of(page: Path) -> list[str]:
    """Every `anytalk ...` line of a page's shell blocks."""
    lines = "\n".join(fenced(page, ("sh", "bash", "console"))).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("anytalk ")]


def parse(program: Any, line: str) -> None:
    """Parse a command line without running it; the command line's own error when it doesn't fit."""
    words = shlex.split(line, comments=True)[1:]
    group = program.make_context("anytalk", words)
    while True:
        name, command, rest = program.resolve_command(group, [*group._protected_args, *group.args])
        group = command.make_context(name, rest, parent=group)
        if not hasattr(command, "commands"):
            return
        program = command


COMMANDS = [(page.name, line) for page in PAGES for line in commands_of(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {c[:60]}" for p, c in COMMANDS])
def test_commands_on_the_pages_parse(program: Any, page: str, line: str) -> None:
    parse(program, line)


def test_there_are_commands_on_the_pages() -> None:
    assert {"README.md", "quickstart.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(
    "line",
    ["anytalk attch x -o y", "anytalk attach x -o y --no-such-option", "anytalk transcribe", "anytalk data previw x"],
)
def test_a_wrong_command_would_be_noticed(program: Any, line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such (command|option)|missing (option|parameter)"):
        parse(program, line)


def test_every_command_and_option_helps(program: Any, generate: Any) -> None:
    for name, command in generate.every_command(program):
        assert command.help, f"command '{name}' has no help"
        for parameter in command.params:
            assert parameter.help, f"'{name} {parameter.name}' has no help"
        assert f"## anytalk {name}\n" in (DOCS / "cli.md").read_text(encoding="utf-8")


def test_generated_blocks_are_fresh(generate: Any) -> None:
    stale = [path.name for path in generate.stale_pages()]
    assert not stale, f"stale: {stale}; run `make docs`"


def test_check_names_stale_pages_and_missing_pictures(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# x\n\n<!-- generated: tasks -->\nold\n<!-- end generated -->\n", encoding="utf-8")
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(generate, "IMAGES", tmp_path)
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "docs/page.md is stale" in said
    assert "docs/images/grid.png is missing" in said
    assert page.read_text(encoding="utf-8").splitlines()[3] == "old", "--check must write nothing"
    page.write_text(generate.render(page.read_text(encoding="utf-8")), encoding="utf-8")
    assert "A1A2" in page.read_text(encoding="utf-8")
    assert not generate.stale_pages()


def test_every_public_option_is_on_the_configuration_page(generate: Any) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    registry = generate.first_party_registry()
    missing = []
    for kind in KINDS:
        if kind in generate.DATA_KINDS:
            continue
        for name in registry.components(kind):
            heading = f"#### {kind} `{name}`\n"
            section = text.partition(heading)[2].partition("\n###")[0]
            fields = registry.load(kind, name).Options.model_fields
            missing += [f"{kind} {name}.{field}" for field in fields if f"| `{field}` |" not in section]
            missing += [] if heading in text else [f"{kind} {name}"]
    assert not missing, f"not on the page: {missing}; run `make docs`"


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    kept = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_internal_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to '{target}', which isn't there"
        assert not anchor or anchor in anchors_of(found), f"{page.name} links to '{target}': no such heading"


def test_pictures_are_shown_and_small(generate: Any) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = {*generate.PICTURES, *SCREENSHOTS}
    for name in names:
        path = DOCS / "images" / f"{name}.png"
        assert path.is_file()
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < MAX_PICTURE_BYTES
        assert f"images/{name}.png" in text
    assert {p.stem for p in (DOCS / "images").iterdir()} == names


def test_the_grid_picture_is_what_the_page_says(generate: Any) -> None:
    from docs.pictures import GRID_COMMAND

    shown = [shlex.split(line) for line in commands_of(DOCS / "concepts.md")]
    assert ["anytalk", *GRID_COMMAND, "--png", "grid.png"] in shown


def test_the_recipe_on_the_configuration_page_is_valid() -> None:
    import yaml

    from anytalk.train.config import Recipe

    recipes = [yaml.safe_load(block) for block in fenced(DOCS / "configuration.md", ("yaml",))]
    assert [Recipe.model_validate(recipe).name for recipe in recipes] == ["mine"]


def test_the_manifest_row_of_the_quickstart_has_known_fields() -> None:
    import json

    from anytalk.data.manifest import FIELDS

    rows = [json.loads(block) for block in fenced(DOCS / "quickstart.md", ("json",))]
    assert rows
    assert all(set(row) <= set(FIELDS) for row in rows)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    assert not list((tmp_path / "site").rglob("*.py"))
