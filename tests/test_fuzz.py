"""Changed inputs of every kind are answered by a sentence: a few seconds of what `make fuzz` does for minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fuzz import kinds_in
from fuzz_lab import Found, Kind, bounded_memory, for_seconds, mutate_json, search

from anytalk.errors import AnytalkError

SECONDS, MOST = 2.5, 300
NAMES = (
    "manifest, JSON lines",
    "manifest, a JSON array",
    "manifest, CSV",
    "manifest, messages",
    "data.yaml",
    "talker.yaml",
    "texts to voice",
    "texts to clean",
    "sound",
    "GGUF header",
    "GGUF file",
    "chat template",
    "model folder",
    "Realtime session",
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    with ExitStack() as stack:
        yield {kind.name: kind for kind in kinds_in(tmp_path_factory.mktemp("fuzz"), stack)}


def test_every_kind_is_searched(kinds: dict[str, Kind]) -> None:
    assert list(kinds) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_input_is_answered_by_a_sentence(kinds: dict[str, Kind], name: str) -> None:
    found, enough = Found(), for_seconds(SECONDS)
    with bounded_memory():
        search(kinds[name], 0, lambda number: number >= MOST or enough(number), found)
    assert found.tried[name] >= 1
    assert not found.faults, "\n".join(shown for _, _, shown in found.faults.values())


def test_unchanged_inputs_are_accepted(kinds: dict[str, Kind]) -> None:
    for name in ("sound", "GGUF file", "GGUF header", "chat template"):
        for seed in kinds[name].seeds:
            kinds[name].attempt(seed)


@pytest.mark.parametrize(
    ("raised", "is_fault"), [(AnytalkError("It is wrong."), False), (AnytalkError(" "), True), (KeyError("x"), True)]
)
def test_what_a_search_calls_a_fault(raised: Exception, is_fault: bool) -> None:
    def attempt(given: object) -> None:
        raise raised

    found = Found()
    search(Kind("x", [1], mutate_json, attempt), 0, lambda number: number == 3, found)
    assert found.tried["x"] == 3
    assert len(found.faults) == is_fault
    assert sum(found.counts.values()) == 3 * is_fault
