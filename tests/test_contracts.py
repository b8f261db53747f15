"""Every registered component can be imported, fulfils its contract's class, and documents its options."""

import subprocess
import sys
from typing import Any

import pytest

from anytalk.grid.tasks import TASKS
from anytalk.plugins import contracts
from anytalk.plugins.registry import KINDS, default_registry
from anytalk.plugins.testing import check_augmentation, check_options
from anytalk.train.config import Recipe

CONTRACTS: dict[str, Any] = {
    "backbone": contracts.Backbone,
    "speech encoder": contracts.SpeechEncoder,
    "input adapter": contracts.InputAdapter,
    "ears": contracts.Ears,
    "hearing": contracts.Hearing,
    "output adapter": contracts.OutputAdapter,
    "heads": contracts.Heads,
    "codec": contracts.Codec,
    "synthesizer": contracts.Synthesizer,
    "transcriber": contracts.Transcriber,
    "data source": contracts.DataSource,
    "augmentation": contracts.Augmentation,
}
PARTS = [(kind, name) for kind in CONTRACTS for name in default_registry().components(kind)]


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda value: value.replace(" ", "-"))
def test_part_fulfils_its_contract(kind: str, name: str) -> None:
    part = default_registry().load(kind, name)
    assert issubclass(part, CONTRACTS[kind])
    assert not part.__abstractmethods__, f"{kind} '{name}' lacks {', '.join(part.__abstractmethods__)}"
    assert part.__doc__
    check_options(kind, name)


def test_a_component_says_the_licence_of_its_class() -> None:
    registry = default_registry()
    said = 0
    for kind in KINDS:
        for name, offers in registry.components(kind).items():
            if offers[0].component.licence:
                assert registry.load(kind, name).licence == offers[0].component.licence, name
                said += 1
    assert said >= 12


def test_every_kind_has_first_party_parts() -> None:
    assert {kind for kind, _ in PARTS} == set(CONTRACTS)


@pytest.mark.parametrize("name", default_registry().components("recipe"))
def test_recipe_is_well_formed(name: str) -> None:
    recipe = Recipe.model_validate(default_registry().load("recipe", name))
    assert recipe.name == name
    for stage in recipe.stages:
        for task in stage.tasks:
            assert task in TASKS


@pytest.mark.parametrize("name", default_registry().components("augmentation"))
def test_augmentation_keeps_its_contract(name: str) -> None:
    check_augmentation(name)


def test_every_name_of_the_contracts_can_be_imported() -> None:
    assert all(hasattr(contracts, name) for name in contracts.__all__)
    assert not hasattr(contracts, "NoSuchContract")


def test_rows_and_data_sources_need_no_torch() -> None:
    code = "import sys\nfrom anytalk.plugins.contracts import DataSource, Row\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
