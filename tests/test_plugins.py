"""The plugin core: loading, listing, finding and building, with everything that can go wrong."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

import anytalk
from anytalk.errors import ConfigError, PluginError, UnknownNameError, WeightsError
from anytalk.plugins import manager
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.manager import Plugins, build_plugins
from anytalk.plugins.registry import KINDS, Registry
from anytalk.plugins.sources import ModelSource


class Whistle:
    """A part with two options that says what it was built with."""

    class Options(anytalk.Options):
        pitch: int = Field(440, description="Hertz.")
        loud: bool = Field(False, description="Louder.")

    def __init__(self, options: Whistle.Options, context: BuildContext) -> None:
        self.options, self.context = options, context

    @classmethod
    def build(cls, options: Whistle.Options, context: BuildContext) -> Whistle:
        return cls(options, context)


class Unspeakable(BaseException):
    """What nobody catches, and what can't say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


def raising(error: BaseException) -> object:
    raise error


WHISTLE = anytalk.Component("whistle", f"{__name__}:Whistle", "whistles")


def nothing() -> list[anytalk.Component]:
    return []


def plugin(**hooks: Callable[..., object]) -> types.ModuleType:
    """A module with these hook implementations."""
    module = types.ModuleType("plugin_in_a_test")
    for name, function in hooks.items():
        setattr(module, name, anytalk.hookimpl(function))
    return module


def registry_of(**modules: types.ModuleType) -> Registry:
    plugins = build_plugins(block=("adapters", "backbones"), third_party=False)
    for name, module in modules.items():
        plugins.register(module, name, distribution=f"dist-{name}", version="1.2")
    return Registry(plugins)


def with_entry_points(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    """Pretend that exactly these (name, module, distribution) are installed."""

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        found = []
        for name, module, distribution in points:
            entry_point = importlib.metadata.EntryPoint(name, module, group)
            dist = types.SimpleNamespace(name=distribution, version="1.2")
            vars(entry_point)["dist"] = dist
            found.append(entry_point)
        return found

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


# --- loading -------------------------------------------------------------------------------------------------


def test_first_party_plugins_come_through_the_entry_points() -> None:
    plugins = build_plugins(block=(), third_party=False)
    assert sorted(plugins.loaded) == ["adapters", "backbones"]
    assert plugins.failures == {}
    assert plugins.loaded["backbones"].hooks == ("register_backbones",)
    assert plugins.loaded["backbones"].distribution == "anytalk"


def test_every_kind_is_a_hook_and_every_register_hook_but_commands_is_a_kind() -> None:
    from anytalk.plugins.hookspecs import Hooks

    hooks = {name for name in vars(Hooks) if name.startswith("register_")}
    assert hooks - {"register_commands"} == set(KINDS.values())


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("raise RuntimeError('no\\n  luck')", "RuntimeError: no luck"),
        ("import a_package_that_is_absent", "ModuleNotFoundError: No module named 'a_package_that_is_absent'"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_plugin_costs_one_line(
    source: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with_entry_points(
        monkeypatch, ("alas", "broken_plugin", "elsewhere"), ("backbones", "anytalk_backbones.plugin", "anytalk")
    )
    plugins = build_plugins(block=(), third_party=True)
    assert plugins.failures["alas"].startswith(line)
    assert "\n" not in plugins.failures["alas"]
    assert list(plugins.loaded) == ["backbones"]
    assert "qwen2" in Registry(plugins).components("backbone")


def test_a_misspelt_hook_is_a_failure_with_the_right_name() -> None:
    registry = registry_of(odd=plugin(register_backbone=nothing))
    assert "register_backbone'" in registry.plugins.failures["odd"]
    assert "did you mean 'register_backbones'?" in registry.plugins.failures["odd"]
    assert "odd" not in registry.plugins.loaded


def test_a_hook_with_an_argument_that_does_not_exist_is_a_failure() -> None:
    registry = registry_of(odd=plugin(register_backbones=lambda loudness: []))
    assert "loudness" in registry.plugins.failures["odd"]
    assert registry.components("backbone") == {}


def test_a_misspelt_plugin_leaves_the_others_alone() -> None:
    registry = registry_of(odd=plugin(register_codek=nothing), good=plugin(register_codecs=lambda: [WHISTLE]))
    assert list(registry.components("codec")) == ["whistle"]


def test_block_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(manager.BLOCK_VARIABLE, "backbones , other")
    plugins = build_plugins()
    assert "backbones" not in plugins.loaded
    assert "adapters" in plugins.loaded
    assert plugins.blocked == ("backbones", "other")


def test_no_plugins_leaves_the_first_party_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    points = (("zoo", "json", "zoo-dist"), ("backbones", "anytalk_backbones.plugin", "anytalk"))
    with_entry_points(monkeypatch, *points)
    assert sorted(build_plugins().loaded) == ["backbones", "zoo"]
    monkeypatch.setenv(manager.NO_PLUGINS_VARIABLE, "1")
    assert sorted(build_plugins().loaded) == ["backbones"]


def test_a_plugin_name_taken_by_another_package_is_a_failure_and_first_party_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = (("backbones", "json", "a-squatter"), ("backbones", "anytalk_backbones.plugin", "anytalk"))
    with_entry_points(monkeypatch, *points)
    plugins = build_plugins(block=(), third_party=True)
    assert plugins.loaded["backbones"].distribution == "anytalk"
    assert plugins.failures == {"backbones (a-squatter)": "the plugin name 'backbones' is taken by anytalk"}


def test_the_same_entry_point_twice_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point = ("backbones", "anytalk_backbones.plugin", "anytalk")
    with_entry_points(monkeypatch, point, point)
    plugins = build_plugins(block=(), third_party=True)
    assert list(plugins.loaded) == ["backbones"]
    assert plugins.failures == {}


def test_a_malformed_entry_points_file_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mangled-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mangled\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[anytalk]\nno equals sign\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = build_plugins(block=(), third_party=True)
    assert "its entry_points.txt can't be read: " in plugins.failures["mangled"]
    assert {"adapters", "backbones"} <= set(plugins.loaded)


def test_a_malformed_package_stops_no_command(tmp_path: Path) -> None:
    """Libraries look for plugins when they are imported, and Python then reads the lists of all packages."""
    info = tmp_path / "mangled-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mangled\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[anytalk]\nno equals sign\n", encoding="utf-8")
    (tmp_path / "loud.py").write_text(
        "from anytalk.plugins import hookimpl\n\n@hookimpl\ndef register_codecs():\n    print('NOISE')\n    return []\n"
    )
    loud = tmp_path / "loud-1.0.dist-info"
    loud.mkdir()
    (loud / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n", encoding="utf-8")
    (loud / "entry_points.txt").write_text("[anytalk]\nloud = loud\n", encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "anytalk", "plugins"], capture_output=True, text=True, env=env, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "plugin 'mangled' failed: its entry_points.txt can't be read" in done.stderr
    assert "NOISE" not in done.stdout
    assert "NOISE" in done.stderr


def test_an_interruption_is_no_failure_of_a_plugin() -> None:
    registry = registry_of(slow=plugin(register_codecs=lambda: raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        registry.components("codec")
    assert registry.plugins.failures == {}


# --- finding and building ------------------------------------------------------------------------------------


def test_unknown_name_tells_the_nearest_and_all() -> None:
    registry = registry_of(zoo=plugin(register_codecs=lambda: [WHISTLE]))
    with pytest.raises(UnknownNameError) as caught:
        registry.find("codec", "wistle")
    assert "unknown codec 'wistle'; did you mean 'whistle'?" in str(caught.value)
    assert "installed: whistle" in caught.value.hint


def test_unknown_name_mentions_plugins_that_failed() -> None:
    registry = registry_of(odd=plugin(register_codek=nothing))
    with pytest.raises(UnknownNameError, match="failed to load: odd"):
        registry.find("codec", "whistle")


def test_unknown_kind() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind 'trumpet'"):
        registry_of().components("trumpet")


def test_two_offers_of_a_name_are_an_error_on_use_only() -> None:
    module = {"register_codecs": lambda: [WHISTLE]}
    registry = registry_of(first=plugin(**module), second=plugin(**module))
    assert len(registry.components("codec")["whistle"]) == 2
    with pytest.raises(PluginError, match="offered by both") as caught:
        registry.build("codec", PartRef(name="whistle"))
    assert manager.BLOCK_VARIABLE in caught.value.hint


@pytest.mark.parametrize(
    ("offer", "line"),
    [
        (lambda: ["whistle"], "register_codecs: TypeError: expected a list of anytalk.Component, got str"),
        (lambda: [anytalk.Component("x", "no_colon", "")], "register_codecs: ValueError: target of 'x'"),
        (lambda: None, "register_codecs: TypeError"),
        (lambda: [anytalk.Component(3, "a:b", "")], "register_codecs: TypeError: name, target"),  # type: ignore[arg-type]
        (lambda: 1 / 0, "register_codecs: ZeroDivisionError: division by zero"),
        (lambda: sys.exit(4), "register_codecs: SystemExit: 4"),
        (lambda: raising(Unspeakable()), "register_codecs: Unspeakable: no message"),
    ],
)
def test_a_hook_that_returns_nonsense_costs_one_line(offer: Callable[[], object], line: str) -> None:
    registry = registry_of(odd=plugin(register_codecs=offer), good=plugin(register_codecs=lambda: [WHISTLE]))
    assert list(registry.components("codec")) == ["whistle"]
    assert registry.plugins.failures["odd"].startswith(line)


@pytest.mark.parametrize("target", ["a_package_that_is_absent:X", "json:NoSuchThing"])
def test_a_target_that_is_not_there_is_a_plugin_error(target: str) -> None:
    registry = registry_of(zoo=plugin(register_codecs=lambda: [anytalk.Component("x", target, "")]))
    with pytest.raises(PluginError, match=r"codec 'x' of plugin 'zoo' can't be imported") as caught:
        registry.load("codec", "x")
    assert "dist-zoo" in caught.value.hint


def test_build_validates_and_hands_over_the_context() -> None:
    registry = registry_of(zoo=plugin(register_codecs=lambda: [WHISTLE]))
    context = BuildContext(device="cpu", num_streams=7)
    part = registry.build("codec", PartRef(name="whistle", options={"pitch": 220}), context)
    assert (part.options.pitch, part.options.loud) == (220, False)
    assert part.context is context


def test_options_errors_list_all_problems() -> None:
    registry = registry_of(zoo=plugin(register_codecs=lambda: [WHISTLE]))
    with pytest.raises(ConfigError) as caught:
        registry.build("codec", PartRef(name="whistle", options={"pitch": "high", "lowd": True}))
    assert "whistle.pitch: Input should be a valid integer" in caught.value.message
    assert "whistle.lowd: Extra inputs are not permitted" in caught.value.message
    assert "options of 'whistle': pitch, loud" in caught.value.hint


def test_context_without_what_a_part_needs_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="needs a backbone"):
        BuildContext().need_backbone()
    with pytest.raises(ConfigError, match="needs a speech encoder"):
        BuildContext().need_encoder_width()


def test_listing_everything_imports_no_torch() -> None:
    code = (
        "import sys, anytalk\n"
        "from anytalk.plugins.registry import KINDS, default_registry\n"
        "registry = default_registry()\n"
        "count = sum(len(registry.components(kind)) for kind in KINDS)\n"
        "assert count > 20, count\n"
        "assert not registry.plugins.failures, registry.plugins.failures\n"
        "heavy = {'torch', 'numpy', 'transformers', 'whisper', 'snac'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    # Third parties may import what they like; this is about ours.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path), manager.NO_PLUGINS_VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- where weights come from ---------------------------------------------------------------------------------


def test_read_bytes_of_a_file_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't be read"):
        ModelSource("gone", (tmp_path / "gone",)).read_bytes()


def test_plugins_is_usable_without_any_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_points(monkeypatch)
    plugins = build_plugins(block=(), third_party=True)
    assert isinstance(plugins, Plugins)
    assert Registry(plugins).components("backbone") == {}


def test_the_codec_of_the_highest_rank_is_taken_where_nobody_chose_one() -> None:
    from anytalk.model.attach import default_codec

    def offering(**ranks: int) -> types.ModuleType:
        codecs = [anytalk.Component(name, "nowhere:Codec", "x", rank=rank) for name, rank in ranks.items()]
        return plugin(register_codecs=lambda: codecs)

    assert default_codec(registry_of(one=offering(a=0, c=2), two=offering(b=1, d=2))) == "c"
    with pytest.raises(ConfigError, match="no codec is installed"):
        default_codec(registry_of())


def test_a_part_that_ends_the_program_while_it_is_built_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whistle, "build", classmethod(lambda *_: raising(SystemExit("bye"))))
    registry = registry_of(one=plugin(register_heads=lambda: [WHISTLE]))
    with pytest.raises(PluginError, match="plugin 'one' tried to exit the program"):
        registry.build("heads", PartRef(name="whistle"))
