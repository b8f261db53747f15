"""Shards: what is written comes back, from a folder and from afar."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from shard_helpers import assert_same, random_example, to_memory, write_folder

from anytalk.data.examples import Example, without_sound
from anytalk.data.shard_feed import ShardFeed, StreamedRows, open_shards
from anytalk.data.shards import ROWS_PER_GROUP, pack_sound, unpack_sound


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    random = np.random.default_rng(3)
    return [random_example(random, i) for i in range(150)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("shards") / "made", [examples[:70], [], examples[70:71], examples[71:]], weight=2.5
    )


@pytest.fixture(scope="module")
def local(folder: Path) -> ShardFeed:
    return open_shards(folder)[0]


@pytest.fixture
def remote(folder: Path) -> ShardFeed:
    return open_shards(to_memory(folder, "made"))[0]


def test_examples_survive_the_round_trip_exactly(local: ShardFeed, examples: list[Example]) -> None:
    assert (local.name, local.weight, len(local)) == ("S", 2.5, 150)
    for index, example in enumerate(examples):
        assert_same(local.example(index), example)


def test_examples_from_afar_are_those_of_the_folder(remote: ShardFeed, examples: list[Example]) -> None:
    for index in np.random.default_rng(0).permutation(150).tolist():
        assert_same(remote.example(index), examples[index])


def test_an_outline_is_the_example_without_features_and_sound(
    local: ShardFeed, remote: ShardFeed, examples: list[Example]
) -> None:
    for index, example in enumerate(examples):
        assert_same(local.outline(index), without_sound(example))
        assert_same(remote.outline(index), without_sound(example))
    assert isinstance(remote.rows, StreamedRows)
    assert remote.rows.groups_read == 0
    assert remote.rows.outlines_read == 5 + 1 + 5


def test_indices_are_the_rows_that_serve_a_task(local: ShardFeed, examples: list[Example]) -> None:
    for task in ("A1A2", "T1T2", "my-task", "A1"):
        indices = local.indices(task)
        assert indices.dtype == np.int64
        assert indices.tolist() == [i for i, e in enumerate(examples) if task in e.tasks]
        assert local.indices(task) is indices


@pytest.mark.parametrize("task", ["A1A2", "my-task"])
def test_order_is_a_permutation_and_a_function_of_seed_and_epoch(
    local: ShardFeed, remote: ShardFeed, folder: Path, task: str
) -> None:
    for feed in (local, remote):
        orders = {(e, s): feed.order(task, e, s).tolist() for e in (0, 1) for s in (0, 1)}
        assert all(sorted(order) == feed.indices(task).tolist() for order in orders.values())
        assert len({tuple(order) for order in orders.values()}) == 4
        again = open_shards(to_memory(folder, "made"))[0] if feed is remote else open_shards(folder)[0]
        assert again.order(task, 1, 1).tolist() == orders[1, 1]
    assert remote.order("nothing", 0, 0).tolist() == []


def test_an_epoch_from_afar_fetches_each_row_group_about_once(tmp_path: Path, examples: list[Example]) -> None:
    rows = [Example(id=str(i), tasks=("T1T2",), answer_text="a") for i in range(3 * 400)]
    made = write_folder(tmp_path / "made", [rows[i : i + 400] for i in (0, 400, 800)])
    feed = open_shards(to_memory(made, "many"))[0]
    assert isinstance(feed.rows, StreamedRows)
    order = feed.order("T1T2", 0, 7).tolist()
    assert [feed.example(i).id for i in order] == [str(i) for i in order]
    num_groups = 3 * 400 // ROWS_PER_GROUP
    assert feed.rows.groups_read == num_groups
    # Neighbours in the order are no neighbours in the file: it is shuffled all the same.
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.05
    shuffled = np.random.default_rng(0).permutation(len(rows)).tolist()
    for index in shuffled[:400]:
        feed.example(index)
    assert feed.rows.groups_read > num_groups + 50, "a random order must cost more, or nothing was counted"


def test_features_and_sound_are_left_out_when_nobody_wants_them(folder: Path, examples: list[Example]) -> None:
    for spec in (folder, to_memory(folder, "made")):
        silent = open_shards(spec, with_sound=False)[0]
        deaf = open_shards(spec, with_features=False)[0]
        for index, example in enumerate(examples[:40]):
            if example.clip is None:
                continue
            no_sound, no_features = silent.example(index).clip, deaf.example(index).clip
            assert no_sound is not None
            assert no_features is not None
            assert no_sound.wave is None
            assert (no_sound.features is None) == (example.clip.features is None)
            assert no_features.features is None
            assert (no_features.wave is None) == (example.clip.wave is None)


def test_half_features_are_rounded_and_come_back_as_float32(tmp_path: Path, examples: list[Example]) -> None:
    feed = open_shards(write_folder(tmp_path / "half", [examples[:30]], half=True))[0]
    seen = 0
    for index, example in enumerate(examples[:30]):
        clip = feed.example(index).clip
        if example.clip is None or example.clip.features is None:
            continue
        assert clip is not None
        assert clip.features is not None
        assert torch.equal(clip.features, example.clip.features.half().float())
        seen += 1
    assert seen > 5


def test_a_read_only_folder_is_read_without_an_arrow_copy(
    tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_folder(tmp_path / "made", [examples[:20]])
    monkeypatch.setattr("os.access", lambda path, mode: False)
    feed = open_shards(made)[0]
    assert_same(feed.example(3), examples[3])
    assert not (made / "s" / ".cache").exists()


def test_a_wrong_index_is_an_index_error(local: ShardFeed) -> None:
    for index in (-1, 150):
        with pytest.raises(IndexError, match="of 150"):
            local.example(index)


def test_sound_is_sixteen_bit_flac() -> None:
    grid = np.array([-32768, -32767, -1, 0, 1, 12345, 32767], dtype=np.float32) / 32768
    data = pack_sound(grid, 8_000)
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype, info.samplerate) == ("FLAC", "PCM_16", 8_000)
    assert np.array_equal(unpack_sound(data), grid)
    loud = unpack_sound(pack_sound(np.array([1.5, -1.5], dtype=np.float32), 8_000))
    assert loud.tolist() == [32767 / 32768, -1.0]
