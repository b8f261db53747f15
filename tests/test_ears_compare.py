"""The example that compares input adapters: one whole run on tiny parts, and what its functions do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import write_lines
from importable import importable, run_example

from anytalk.grid.audio import write_wave
from anytalk.train.config import StageConfig

with importable("ears"):
    import compare

CHOICES = Path(compare.__file__).with_name("compare.yaml")


def spoken(folder: Path, number: int) -> Path:
    """A set of tones of 0.5 to 1 s by four speakers, and one clip of 9 s."""
    folder.mkdir()
    lines = []
    for i in range(number):
        length_s = 9.0 if i == 1 else 0.5 + i / number / 2
        tone = 0.3 * np.sin(np.arange(int(16_000 * length_s)) * (0.05 + i / 99))
        write_wave(folder / f"{i}.wav", tone.astype(np.float32), 16_000)
        lines.append({"audio": f"{i}.wav", "text": f"word {'abcdefgh'[i % 8]}", "speaker": f"s{i % 4}"})
    write_lines(folder / "manifest.jsonl", lines)
    return folder


def test_stages_of_the_file_are_well_formed() -> None:
    choices = yaml.safe_load(CHOICES.read_text())
    assert set(choices["adapters"]) == {"letters", "ctc", "mlp", "swiglu", "stack"}
    for adapter in choices["adapters"].values():
        stage = StageConfig.model_validate({**choices["stage"], **adapter["stage"], "steps": 10})
        assert stage.train == ["input_adapter"]


def test_clips_are_drawn_by_chance_without_long_ones(tmp_path: Path) -> None:
    rows = [{"audio": str(path)} for path in sorted(spoken(tmp_path / "set", 8).glob("*.wav"))]
    found = list(compare.short_clips(rows, 6.0))
    assert len(found) == 7
    assert found != rows[:1] + rows[2:]
    assert list(compare.short_clips(rows, 6.0, 3)) == found[:3]
    assert list(compare.short_clips(rows, 6.0, hours=1.0 / 3600)) == found[:2]


def test_a_step_that_measures_counts_no_time() -> None:
    clock = compare.Clock(marks=[0.0, 9.0, 10.0, 15.0, 17.0], looks={3: 1.0})
    assert clock.per_step_s() == [1.0, 2.0]


@pytest.mark.timeout(300)
def test_a_whole_run(tmp_path: Path) -> None:
    choices = {
        **yaml.safe_load(CHOICES.read_text()),
        "model": "tiny",
        "encoders": {"small": ["--encoder", "tiny", "--set", "output_adapter.options.num_blocks=1"]},
    }
    kept = choices["adapters"]
    choices["adapters"] = {name: kept[name] for name in ("letters", "stack")}
    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(choices))
    sizes = ["--choices", tmp_path / "choices.yaml", "--minutes", "0", "--held-out", "2", "--heard", "2"]
    said = run_example("ears/compare.py", tmp_path / "out", spoken(tmp_path / "set", 8), *sizes)
    runs = [json.loads((tmp_path / "out" / "small" / f"{name}.json").read_text()) for name in ("letters", "stack")]
    for run in runs:
        # So few that each is followed by a measurement, and none is left whose time counts.
        assert run["steps"] == compare.LOOKS
        assert run["processor_s"] > 0
        assert run["curve"][-1][0] == run["rows"]
        assert run["loss"][0] > 0
        assert run["loss"] != run["loss_of_strangers"]
        assert run["wer"][0] > 0
    # The loss after the last step is the one that is measured row by row, up to rounding.
    assert runs[1]["curve"][-1][1] == pytest.approx(runs[1]["loss"][0], rel=1e-4)
    assert said.count("| small |") == 2
    # Nothing is run again.
    again = run_example("ears/compare.py", tmp_path / "out", *sizes)
    assert "== small" not in again
    assert again.endswith(said[said.rindex("| encoder") :])
