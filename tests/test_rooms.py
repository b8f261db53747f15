"""Who may import whom, read from the imports themselves (those inside functions and TYPE_CHECKING included)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["plugins", "grid", "model", "decode", "text", "data", "train", "evaluate", "bench", "serve", "cli"]
"""A room may import itself and the rooms to its left."""

OPEN_TO_ALL = {"anytalk.errors", "anytalk.files", "anytalk.kernels", "anytalk.packages"}
PLUGIN_PACKAGES = ["anytalk_backbones", "anytalk_adapters"]
SEEN_BY_PLUGINS = ("anytalk.plugins", "anytalk.grid", *sorted(OPEN_TO_ALL))
MAX_LINES = 400
FOLDERS = ["anytalk", "backbones", "adapters", "tests", "examples"]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports_of(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that a module imports; ``from a import b`` and ``anytalk.b`` count as ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "anytalk")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "anytalk":
            yield f"anytalk.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def files_of(package_folder: Path) -> list[tuple[str, Path]]:
    """(dotted module name, file) of every module under a package's folder."""
    found = []
    for path in sorted(package_folder.rglob("*.py")):
        parts = path.relative_to(package_folder.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def allowed_in_core(module: str) -> list[str]:
    """Packages of anytalk that a core module may import."""
    room = module.split(".")[1]
    if is_within(module, "anytalk.plugins.testing"):
        return ["anytalk.plugins", "anytalk.grid"]
    return [f"anytalk.{name}" for name in ROOMS[: ROOMS.index(room) + 1]]


def wrong_imports_of_core(module: str, source: str, is_package: bool) -> list[str]:
    allowed = allowed_in_core(module)
    wrong = []
    for name in imports_of(source, module, is_package):
        if any(is_within(name, package) for package in PLUGIN_PACKAGES):
            wrong.append(name)
        is_ours = is_within(name, "anytalk") and name != "anytalk.__version__"
        if is_ours and not any(is_within(name, package) for package in [*allowed, *OPEN_TO_ALL]):
            wrong.append(name)
    return wrong


def wrong_imports_of_plugin(module: str, source: str, is_package: bool, public: frozenset[str]) -> list[str]:
    own = module.split(".")[0]
    wrong = []
    for name in imports_of(source, module, is_package):
        if any(is_within(name, package) and package != own for package in PLUGIN_PACKAGES):
            wrong.append(name)
        if is_within(name, "anytalk") and name not in public and not any(is_within(name, p) for p in SEEN_BY_PLUGINS):
            wrong.append(name)
    return wrong


def public_face() -> frozenset[str]:
    """What a plugin may take from ``anytalk`` itself; the lazy names lead into later rooms and are not among it."""
    import anytalk

    return frozenset(f"anytalk.{name}" for name in set(anytalk.__all__) - set(anytalk._LAZY))


CORE = [(m, p) for m, p in files_of(ROOT / "anytalk") if m not in ("anytalk", "anytalk.__main__", *OPEN_TO_ALL)]
PLUGINS = [
    found
    for folder in (ROOT / "backbones" / "anytalk_backbones", ROOT / "adapters" / "anytalk_adapters")
    for found in files_of(folder)
]


def test_every_folder_of_the_core_is_a_room() -> None:
    folders = {p.name for p in (ROOT / "anytalk").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders <= set(ROOMS)
    modules = {p.stem for p in (ROOT / "anytalk").glob("*.py")}
    assert modules == {"__init__", "__main__"} | {name.removeprefix("anytalk.") for name in OPEN_TO_ALL}
    assert len(CORE) > 5
    assert len(PLUGINS) > 5


@pytest.mark.parametrize(("module", "path"), CORE, ids=[m for m, _ in CORE])
def test_core_imports_only_to_its_left(module: str, path: Path) -> None:
    wrong = wrong_imports_of_core(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    assert not wrong, f"{module} may import {allowed_in_core(module)} and {sorted(OPEN_TO_ALL)}, not {wrong}"


@pytest.mark.parametrize(("module", "path"), PLUGINS, ids=[m for m, _ in PLUGINS])
def test_plugins_see_only_the_public_face(module: str, path: Path) -> None:
    wrong = wrong_imports_of_plugin(module, path.read_text(encoding="utf-8"), path.name == "__init__.py", public_face())
    assert not wrong, f"{module} may import anytalk, {', '.join(SEEN_BY_PLUGINS)} and its own package, not {wrong}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [("errors", ()), ("files", ()), ("packages", ()), ("kernels", ("errors", "plugins.contracts"))],
)
def test_what_is_open_to_all_imports_little_of_ours(module: str, allowed: tuple[str, ...]) -> None:
    source = (ROOT / "anytalk" / f"{module}.py").read_text(encoding="utf-8")
    ours = [name for name in imports_of(source, f"anytalk.{module}", False) if is_within(name, "anytalk")]
    assert not [name for name in ours if not any(is_within(name, f"anytalk.{other}") for other in allowed)]


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("anytalk.grid.x", "from anytalk.plugins import hookimpl\nfrom anytalk.errors import AudioError", []),
        ("anytalk.grid.x", "def f():\n    from anytalk.model import talker", ["anytalk.model.talker"]),
        ("anytalk.grid.x", "from anytalk import train", ["anytalk.train"]),
        ("anytalk.grid.x", "from ..cli import main", ["anytalk.cli.main"]),
        ("anytalk.grid.x", "from . import audio", []),
        ("anytalk.plugins.components", "import anytalk.grid.audio", ["anytalk.grid.audio"]),
        ("anytalk.plugins.contracts", "if TYPE_CHECKING:\n    import anytalk.model", ["anytalk.model"]),
        ("anytalk.plugins.testing.codec", "from anytalk.grid import audio", []),
        ("anytalk.plugins.testing.codec", "from anytalk.model import talker", ["anytalk.model.talker"]),
        ("anytalk.cli.x", "import anytalk_backbones.tiny", ["anytalk_backbones.tiny"]),
        ("anytalk.train.x", "from anytalk.evaluate import judge", ["anytalk.evaluate.judge"]),
        ("anytalk.train.x", "from anytalk import __version__", []),
        ("anytalk.train.x", "import anytalk\nprint(anytalk.__version__)", []),
        ("anytalk.train.x", "import anytalk\nanytalk.serve.main()", ["anytalk.serve"]),
    ],
)
def test_the_rule_for_the_core_catches(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports_of_core(module, source, is_package=False) == wrong


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import anytalk\nfrom anytalk import Options, plugins\nfrom anytalk.grid.audio import resample", []),
        ("from anytalk import attach", ["anytalk.attach"]),
        ("import anytalk\nanytalk.load_talker('x')", ["anytalk.load_talker"]),
        ("from anytalk.train.loop import Trainer", ["anytalk.train.loop.Trainer"]),
        ("from anytalk_adapters import heads", ["anytalk_adapters.heads"]),
        ("from anytalk_backbones.hf import X\nimport torch", []),
    ],
)
def test_the_rule_for_plugins_catches(source: str, wrong: list[str]) -> None:
    assert wrong_imports_of_plugin("anytalk_backbones.x", source, False, public_face()) == wrong


@pytest.mark.parametrize(("module", "path"), CORE + PLUGINS, ids=[m for m, _ in CORE + PLUGINS])
def test_the_contracts_have_one_door(module: str, path: Path) -> None:
    """Their modules import from one another; everybody else imports from the package."""
    door = "anytalk.plugins.contracts"
    if is_within(module, door):
        return
    source = path.read_text(encoding="utf-8")
    behind = [
        name
        for part in ("data", "part", "parts", "values")
        for name in imports_of(source, module, False)
        if is_within(name, f"{door}.{part}")
    ]
    assert not behind, f"{module} must import from {door}, not {behind}"


def test_the_two_sides_of_the_server_dont_import_each_other() -> None:
    sides = ["anytalk.serve.realtime", "anytalk.serve.http"]
    for own, other in (sides, sides[::-1]):
        files = [(module, path) for module, path in CORE if is_within(module, own)]
        assert len(files) > 3
        for module, path in files:
            found = imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
            assert not [name for name in found if is_within(name, other)], module


def test_no_file_is_longer_than_a_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"files over {MAX_LINES} lines: {long}"
