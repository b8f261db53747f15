"""The text sets of the example talker: enough, distinct, plain, and the same bytes each time."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples/smollm2-assistant"
PARTS = ("texts", "templates", "wordlists")


@pytest.fixture(scope="module")
def texts() -> Any:
    """The builder, loaded by path; what it put on the path and among the modules is taken away again."""
    path, before = list(sys.path), {name: sys.modules.pop(name, None) for name in PARTS}
    spec = importlib.util.spec_from_file_location("texts", FOLDER / "texts.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["texts"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in PARTS:
        sys.modules.pop(name, None)
        if (old := before[name]) is not None:
            sys.modules[name] = old


@pytest.fixture(scope="module")
def sets(texts: Any) -> dict[str, list[dict[str, Any]]]:
    return texts.text_sets()


def said(row: dict[str, Any]) -> str:
    return str(row.get("text") or row["question_text"])


def test_there_are_enough_of_each(sets: dict[str, list[dict[str, Any]]], texts: Any) -> None:
    assert len(sets["questions.train.jsonl"]) >= 7000
    assert 350 <= len(sets["questions.test.jsonl"]) <= 450
    assert len(sets["answers.train.jsonl"]) >= 22_000
    assert 400 <= len(sets["answers.test.jsonl"]) <= 600
    assert len({word for row in sets["answers.train.jsonl"] for word in texts.words(said(row))}) >= 1000


@pytest.mark.parametrize("name", ["questions", "answers"])
def test_what_is_held_out_is_not_trained_on(name: str, sets: dict[str, list[dict[str, Any]]], texts: Any) -> None:
    rows = [row for split in ("train", "test") for row in sets[f"{name}.{split}.jsonl"]]
    assert len({" ".join(texts.words(said(row))) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_text_is_plain_and_short(sets: dict[str, list[dict[str, Any]]]) -> None:
    for rows in sets.values():
        for row in rows:
            assert re.fullmatch(r"[A-Z][A-Za-z,.?!' ]+[.?!]", said(row)), row
            assert 2 <= len(said(row).split()) <= 16, row


def test_the_ordinary_sentences_are_new(sets: dict[str, list[dict[str, Any]]], texts: Any) -> None:
    def pieces(text: str) -> set[str]:
        words = texts.words(text)
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}

    lines = texts.ORDINARY.splitlines()
    assert len({*lines}) == 100
    unseen = {piece for line in lines for piece in pieces(line)}
    assert not any(pieces(said(row)) & unseen for rows in sets.values() for row in rows)


def test_it_writes_the_same_bytes_twice(tmp_path: Path, texts: Any) -> None:
    texts.write(tmp_path / "one")
    texts.write(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    first = json.loads((tmp_path / "one/questions.train.jsonl").read_text("utf-8").splitlines()[0])
    assert {*first} == {"id", "kind", "question_text", "expected"}
