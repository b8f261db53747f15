"""`examples/mini-paper`: the paper's recipe from rows to a page, on tiny parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import write_lines

from anytalk.data.config import read_data_config
from anytalk.evaluate.config import Suite
from anytalk.grid.audio import write_wave
from anytalk.plugins.registry import default_registry
from anytalk.train.config import Recipe, find_recipe, override_stages

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "mini-paper"
sys.path.append(str(EXAMPLE))

import questions  # noqa: E402
import rows  # noqa: E402
import suites  # noqa: E402

SCALES = yaml.safe_load((EXAMPLE / "scales.yaml").read_text())


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recordings(folder: Path) -> Path:
    """Two people's recordings to train on and one to measure with, as ANYTALK_SPEECH lays them out."""
    for name, count in (("train/a-set", 3), ("test/other-set", 2)):
        place = folder / name
        place.mkdir(parents=True)
        lines = [{"audio": f"{i}.wav", "text": f"words {i}", "speaker": "s", "seconds": i + 1.0} for i in range(count)]
        write_lines(place / "manifest.jsonl", [*lines, {"audio": "x.wav", "text": None, "seconds": 1.0}])
        for i in range(count):
            tone = 0.3 * np.sin(np.arange(16_000 * (i + 1)) / 9)
            write_wave(place / f"{i}.wav", tone.astype(np.float32), 16_000)
    return folder


@pytest.mark.parametrize("scale", SCALES)
def test_scales_fit_the_recipe_and_the_suites(tmp_path: Path, scale: str) -> None:
    sizes = SCALES[scale]
    recipe = find_recipe("paper", default_registry())
    changed = override_stages(recipe, [f"{name}={value}" for name, value in sizes["stages"].items()])
    assert [stage.train for stage in changed.stages] == [stage.train for stage in recipe.stages]
    for variant in questions.VARIANTS.values():
        Recipe.model_validate(questions.ablation_recipe(sizes["ablation"], variant))
    for checkpoint in ("attached", "alignment", "annealing"):
        for suite in suites.suites_of(checkpoint, tmp_path, sizes).values():
            Suite.model_validate(suite)


def test_people_are_heard_where_they_were_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {**SCALES["test"], "held_out": 1, "longest_s": 2.5}
    for name, speech in (("with", recordings(tmp_path / "speech")), ("without", tmp_path / "nowhere")):
        out = tmp_path / name
        out.mkdir()
        rows.write_rows(out, sizes, speech)
        found = {source.name: source for source in read_data_config(out / "data.yaml").sources}
        assert ("people" in found) == (name == "with")
        assert found["voice"].tasks == ["T1A1"]
        kept, held_out = (lines_of(out / f"rows/{file}.jsonl") for file in ("pairs", "held-out-pairs"))
        assert not {row["question_text"] for row in kept} & {row["question_text"] for row in held_out}
        suite = suites.suites_of("alignment", out, sizes)["hear"]
        wanted = ["other_set", "people", "synthetic"] if name == "with" else ["synthetic"]
        assert [measure["name"] for measure in suite["measures"]] == wanted
    assert "no recordings of people" in capsys.readouterr().out
    people = [row for file in ("people", "held-out-people") for row in lines_of(tmp_path / f"with/rows/{file}.jsonl")]
    assert sorted(row["question_text"] for row in people) == ["words 0", "words 1"]  # the third is too long


@pytest.mark.slow
def test_one_command_runs_the_whole_recipe_and_goes_on(tmp_path: Path) -> None:
    own = {"ANYTALK_SPEECH": str(recordings(tmp_path / "speech")), "ANYTALK_BLOCK_PLUGINS": ""}
    environment = {**os.environ, **own}
    command = [sys.executable, str(EXAMPLE / "run.py"), str(tmp_path / "out"), "--scale", "test"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)

    first = run("--part", "recipe")
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "out/README.md").read_text()
    assert "after annealing, batch-parallel" in page
    assert "Not run." in page
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        f"{stage}.png" for stage in ("alignment", "adaption", "multimodal", "annealing")
    }
    second = run()
    assert second.returncode == 0, second.stderr
    assert "train alignment" not in second.stdout
    page = (tmp_path / "out/README.md").read_text()
    assert "one stream, flattened" in page
    assert "| other_set |" in page
    other = subprocess.run([*command[:-1], "small"], env=environment, capture_output=True, text=True, check=False)
    assert "begun with another scale" in other.stderr
