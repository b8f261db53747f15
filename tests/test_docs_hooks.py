"""The pages for plugin authors against the code: every hook with its arguments, every line of the tutorial."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from anytalk.plugins import contracts, testing
from anytalk.plugins.hookspecs import Hooks
from anytalk.plugins.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
HOOKS_PAGE = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
TUTORIALS = {
    name: (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, page in (("parrot", "writing-a-plugin.md"), ("cricket", "writing-a-codec.md"))
}
SIGNATURES = {
    name: f"{name}({', '.join(list(inspect.signature(function).parameters)[1:])})"
    for name, function in vars(Hooks).items()
    if not name.startswith("_")
}


def blocks_of(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def headings_of(page: str) -> list[str]:
    return re.findall(r"^### (.+)$", page, flags=re.MULTILINE)


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=list(SIGNATURES))
def test_every_hook_has_a_heading_with_its_arguments(signature: str) -> None:
    assert signature in headings_of(HOOKS_PAGE)


def test_no_heading_names_a_hook_that_is_gone() -> None:
    assert sorted(headings_of(HOOKS_PAGE)) == sorted(SIGNATURES.values())
    assert len(SIGNATURES) == len(KINDS) + 4


def test_contracts_and_checks_named_on_the_page_exist() -> None:
    named = re.findall(r"`contracts\.(\w+)`", HOOKS_PAGE)
    assert len(named) == len(set(named)) == 12
    assert set(named) <= set(contracts.__all__)
    checks = re.findall(r"(check_\w+)`", HOOKS_PAGE)
    assert set(checks) == set(testing.__all__) - {"check_options"}


@pytest.mark.parametrize(
    ("name", "language", "file", "least"),
    [
        (name, *rest)
        for name in TUTORIALS
        for rest in (("python", f"anytalk_{name}.py", 5), ("toml", "pyproject.toml", 1), ("py", f"test_{name}.py", 1))
    ],
)
def test_the_tutorials_show_the_examples(name: str, language: str, file: str, least: int) -> None:
    source = (ROOT / "examples" / f"anytalk-{name}" / file).read_text(encoding="utf-8")
    blocks = blocks_of(TUTORIALS[name], language)
    assert len(blocks) >= least
    for block in blocks:
        assert block in source, f"the tutorial shows a block that {file} doesn't hold:\n{block}"


@pytest.mark.parametrize(("name", "contract"), [("parrot", contracts.Backbone), ("cricket", contracts.Codec)])
def test_the_tutorials_implement_every_member_of_the_contract(name: str, contract: type[contracts.Part]) -> None:
    shown = "\n".join(blocks_of(TUTORIALS[name], "python"))
    assert all(needed in shown for needed in contract.needs)
    for member in contract.__abstractmethods__:
        assert f"def {member}(" in shown, f"the tutorial doesn't show {member}"
