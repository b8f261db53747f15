"""A training that is watched: TensorBoard's files while it runs, and a sentence when it stops learning."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import NEW_PARTS, TINY_PARTS, model_folder, stage, tiny_talker, train, training_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import interrupted_after, log_of
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.data.batches import Steps
from anytalk.data.opening import TrainingData
from anytalk.model.attach import attach
from anytalk.train.config import StageConfig
from anytalk.train.loop import TrainingWatcher
from anytalk.train.plateau import LOOKS, plateau

TASKS = {"A1A2": 1.0, "A1T1": 1.0, "T1A1": 2.0}


def events(talker: Path) -> EventAccumulator:
    found = EventAccumulator(str(talker / "history" / "tensorboard" / "short"), size_guidance={"audio": 0, "images": 0})
    found.Reload()
    return found


def steps_of(found: EventAccumulator, name: str) -> list[int]:
    return [event.step for event in found.Scalars(name)]


def test_tensorboard_shows_losses_by_task_and_stream_answers_as_sound_and_a_grid(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 6)
    settings = stage(tasks=TASKS, steps=4)
    talker = tiny_talker(tmp_path / "t")
    train(talker, settings, rows[:4], held_out=TrainingData(rows=rows[4:]), held_out_every=2)
    found = events(tmp_path / "t")
    assert steps_of(found, "loss") == steps_of(found, "data_share") == [1, 2, 3, 4]
    speaks, writes = ("A1A2", "T1A1"), ("A1A2", "A1T1")
    losses = [f"{task}/audio{stream}" for task in speaks for stream in range(3)] + [f"{task}/text" for task in writes]
    for name in [*losses, "text", "audio0", "loss", "A1T1/loss"]:
        assert steps_of(found, f"held_out/{name}") == [2, 4], name
    assert "held_out/A1T1/audio0" not in found.Tags()["scalars"]
    for task in speaks:
        assert [event.step for event in found.Audio(f"sample/{task}/sound")] == [2, 4]
        (wanted,) = found.Audio(f"sample/{task}/wanted")
        assert (wanted.sample_rate, wanted.encoded_audio_string[:4]) == (8000, b"RIFF")
        assert wanted.length_frames == pytest.approx(len(wanted.encoded_audio_string) / 2, abs=50)
    texts = found.Tensors("sample/A1T1/text/text_summary")
    assert [event.step for event in texts] == [2, 4]
    assert b"answered: " in texts[0].tensor_proto.string_val[0]
    (grid,) = found.Images("grid/A1A2")
    assert grid.width > 300
    assert grid.encoded_image_string.startswith(b"\x89PNG")


def test_the_losses_of_all_tasks_together_are_made_of_those_of_each(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 4)
    train(tiny_talker(tmp_path / "t"), stage(tasks=TASKS, steps=1), rows, held_out=TrainingData(rows=rows))
    (entry,) = log_of(tmp_path / "t")
    texts = [entry[f"held_out.{task}.text"] for task in ("A1A2", "A1T1")]
    assert min(texts) <= entry["held_out.text"] <= max(texts)
    assert entry["held_out.loss"] == pytest.approx(entry["held_out.text"] + entry["held_out.audio"])
    assert entry["held_out.A1T1.loss"] == pytest.approx(entry["held_out.A1T1.text"])


def test_a_resumed_stage_goes_on_in_the_same_charts(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 2)
    settings = stage(steps=6, checkpoint_every=100)
    talker = tiny_talker(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        train(talker, settings, rows, interrupted_after(3))
    assert steps_of(events(tmp_path / "t"), "loss") == [1, 2, 3], "it is written while it trains"
    train(talker, settings, rows)
    assert steps_of(events(tmp_path / "t"), "loss") == [1, 2, 3, 4, 5, 6]
    train(talker, settings, rows, restart=True)
    assert steps_of(events(tmp_path / "t"), "loss") == [1, 2, 3, 4, 5, 6]


def test_answers_on_the_way_change_nothing_of_low_rank_updates_and_recomputed_activations(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 3)
    lora = {"backbone": {"rank": 2, "alpha": 4, "dropout": 0.1}}
    settings = stage(train=[*NEW_PARTS, "backbone"], lora=lora, gradient_checkpointing=True, tasks=TASKS, steps=4)
    model = str(model_folder(tmp_path / "model", "llama"))
    train(attach(model, tmp_path / "plain", assignments=TINY_PARTS), settings, rows)
    watched = attach(model, tmp_path / "watched", assignments=TINY_PARTS)
    train(watched, settings, rows, held_out=TrainingData(rows=rows), held_out_every=1)
    bare = [{k: v for k, v in e.items() if not k.startswith("held_out.")} for e in log_of(tmp_path / "watched")]
    assert bare == log_of(tmp_path / "plain")


def test_a_disk_without_room_for_tensorboard_costs_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    said: list[str] = []
    watcher = TrainingWatcher(notice=lambda _, text: said.append(text))
    record = train(tiny_talker(tmp_path / "t"), stage(steps=3), training_rows(tmp_path, 2), watcher)
    assert record.steps == 3
    assert len(said) == 1
    assert "No space left on device" in said[0]


# ---- a stage that stops learning


def looks(held_out: list[float], training: list[float], rate: float = 1e-3) -> list[dict[str, float]]:
    """A log with a look at each step."""
    pairs = enumerate(zip(held_out, training, strict=True), start=1)
    return [{"step": n, "loss": mine, "learning_rate": rate, "held_out.loss": other} for n, (other, mine) in pairs]


FALLING = [4.0, 3.5, 3.0]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (looks([*FALLING, 2.9, 2.8, 2.7, 2.6, 2.5], [3.0] * 8), None),
        (looks(FALLING, FALLING), None),
        (looks([*FALLING, 3.1, 3.1, 3.0, 3.2, 2.9], [3.0] * 8), None),
        (looks([*FALLING, 3.1, 3.2, 3.1, 3.2, 3.3], [4.0, 3.5, 3.0, 2.5, 2.2, 1.9, 1.7, 1.5]), "it memorises its rows"),
        (looks([*FALLING, 3.1, 3.2, 3.1, 3.2, 3.1], [3.0] * 8), "--set s.learning_rate=0.001"),
        (looks([*FALLING, 3.1, 3.2, 3.1, 3.2, 3.1], [3.0] * 8, rate=2e-5), "the stage is done"),
    ],
)  # fmt: skip
def test_a_plateau_is_told_with_what_to_do(log: list[dict[str, float]], expected: str | None) -> None:
    said = plateau("s", 1e-3, log)
    if expected is None:
        assert said is None
    else:
        assert said is not None
        assert expected in said
        assert "lowest at step 3 (3.000)" in said


def test_looks_at_other_steps_than_the_log_s_count_alike() -> None:
    log = looks([*FALLING, *[3.1] * LOOKS], [3.0] * (3 + LOOKS))
    between = [{"step": entry["step"] + 0.5, "loss": 3.0} for entry in log]
    assert plateau("s", 1e-3, sorted([*log, *between], key=lambda e: e["step"])) == plateau("s", 1e-3, log)


def test_a_stage_that_can_t_learn_says_so_while_it_trains_and_at_its_end(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 3)
    said: list[tuple[int, str]] = []
    seen: list[int] = []
    watcher = TrainingWatcher(
        step=lambda _, number, __: seen.append(number), notice=lambda _, text: said.append((seen[-1], text))
    )
    settings = stage(steps=9, learning_rate=1e-12, learning_rate_floor=0.0)
    train(
        tiny_talker(tmp_path / "t"), settings, rows[:2], watcher, held_out=TrainingData(rows=rows[2:]), held_out_every=1
    )
    assert [step for step, _ in said] == [LOOKS + 1, 9]
    assert all("has stopped learning" in text for _, text in said)
    assert (
        b"has stopped learning" in events(tmp_path / "t").Tensors("plateau/text_summary")[0].tensor_proto.string_val[0]
    )


def test_the_command_repeats_a_plateau_below_its_summary(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    training_rows(tmp_path, 3)
    recipe = {"stages": [stage(steps=8, learning_rate=1e-12, learning_rate_floor=0.0).model_dump(mode="json")]}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    data = str(tmp_path / "rows.jsonl")
    given = ["train", str(tmp_path / "t"), "--data", data, "--recipe", str(tmp_path / "r.yaml"), "--device", "cpu"]
    result = CliRunner().invoke(build_app(), [*given, "--held-out", data, "--held-out-every", "1"])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("has stopped learning") == 2
    assert "has stopped learning" in result.output.partition("trained")[2]


# ---- time lost to data


def test_the_log_tells_the_share_of_time_that_was_lost_to_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out = Steps.__getitem__

    def slow(steps: Steps, number: int) -> Any:
        time.sleep(0.2 if number % 2 else 0.0)
        return lay_out(steps, number)

    shares: dict[int, float] = {}

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        shares[number] = metrics["data_share"]

    monkeypatch.setattr(Steps, "__getitem__", slow)
    train(tiny_talker(tmp_path / "t"), stage(steps=4), training_rows(tmp_path, 2), TrainingWatcher(step=step))
    assert all(0 <= share < 1 for share in shares.values())
    assert min(shares[2], shares[4]) > max(shares[3], 0.3)
