"""What users install: the built wheels of anytalk and of the example plugin, in a fresh environment, elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {name: ROOT / "examples" / f"anytalk-{name}" for name in ("parrot", "cricket")}
PACKAGES = [ROOT / "anytalk", ROOT / "backbones" / "anytalk_backbones", ROOT / "adapters" / "anytalk_adapters"]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, with nothing of this process's Python settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ANYTALK_", "VIRTUAL_ENV"))}
    # The environment around it may know the package of the demo's voice, which can't be imported from here.
    environment["ANYTALK_BLOCK_PLUGINS"] = "heart"
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(project: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has these wheels of its own, and after them the packages that they depend on."""
    examples = [build_wheel(project, tmp_path_factory.mktemp(f"{name}-wheel")) for name, project in EXAMPLES.items()]
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    made = folder / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", made, "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", wheel, *examples, cwd=folder,
    )  # fmt: skip
    own = Path(run(made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A .pth line puts its folder last on sys.path and reads no .pth in it: an editable anytalk stays unseen.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return made


def test_the_wheel_holds_every_module_and_asset_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == wanted
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= held
    assert not [name for name in held if "test_" in name or name.startswith("tests")]


def test_the_installed_anytalk_is_the_wheel(python: Path, tmp_path: Path) -> None:
    names = [package.name for package in PACKAGES]
    code = f"import {', '.join(names)}; print({', '.join(f'{name}.__file__' for name in names)})"
    for path in run(python, "-c", code, cwd=tmp_path).split():
        assert Path(path).is_relative_to(python.parent.parent), f"{path} is not in {python.parent.parent}"


def test_the_plugins_are_found_and_none_is_broken(python: Path, tmp_path: Path) -> None:
    code = (
        "from anytalk.plugins.registry import default_registry as r\n"
        "p = r().plugins\n"
        "print(p.failures, sorted(p.loaded), p.loaded['parrot'].version, *p.loaded['parrot'].hooks)\n"
    )
    expected = "{} ['adapters', 'backbones', 'cricket', 'parrot'] 0.1.0 register_backbones"
    assert run(python, "-c", code, cwd=tmp_path).strip() == expected


@pytest.mark.parametrize(("name", "passed"), [("parrot", 1), ("cricket", 2)])
def test_an_example_plugin_passes_its_own_test_elsewhere(python: Path, tmp_path: Path, name: str, passed: int) -> None:
    shutil.copy(EXAMPLES[name] / f"test_{name}.py", tmp_path)
    done = run(python, "-m", "pytest", "-p", "no:cacheprovider", f"test_{name}.py", cwd=tmp_path)
    assert f"{passed} passed" in done
