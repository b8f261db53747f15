"""What a prepared folder says of itself: its settings, its ledger, and whom it fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_talker
from shard_helpers import random_example, to_memory, write_folder

from anytalk.data.examples import Example
from anytalk.data.ledger import (
    LedgerFile,
    Prepared,
    Settings,
    ShardRecord,
    differences,
    make_slug,
    read_ledger,
    read_prepared,
)
from anytalk.data.prepare_parts import talker_senses
from anytalk.data.shard_feed import check_fits, is_prepared, open_shards
from anytalk.data.shards import shard_record
from anytalk.errors import ConfigError, DataError
from anytalk.model.talker import load_talker, save_talker


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    random = np.random.default_rng(4)
    return [random_example(random, i) for i in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    return write_folder(tmp_path_factory.mktemp("ledger") / "made", [examples[:5], [], examples[5:]], weight=2.5)


def record(number: int, **changes: Any) -> ShardRecord:
    values: dict[str, Any] = {
        "source": "s",
        "number": number,
        "first_row": 0,
        "rows": 2,
        "kept": 1,
        "rejected": {"x": 1},
    }
    return ShardRecord.model_validate({**values, **changes})


def test_a_torn_last_line_of_the_ledger_is_cut_off(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path)
    file.add(record(0))
    file.add(record(1))
    file.finish("s", 4)
    whole = (tmp_path / "ledger.jsonl").read_bytes()
    second = whole.index(b"\n") + 1
    for length in (second + 1, second + 40, len(whole) - 1):
        (tmp_path / "ledger.jsonl").write_bytes(whole[:length])
        expected = whole[: whole[:length].rindex(b"\n") + 1]
        assert sorted(n for _, n in read_ledger(tmp_path).shards) == ([0] if length < len(whole) - 1 else [0, 1])
        again = LedgerFile(tmp_path)
        assert (tmp_path / "ledger.jsonl").read_bytes() == expected
        assert again.ledger.complete == {}


def test_a_damaged_line_of_the_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text(record(0).model_dump_json() + "\n{oops\n")
    with pytest.raises(DataError, match=r"ledger\.jsonl' is damaged at line 2"):
        read_ledger(tmp_path)


def test_a_shard_knows_its_own_line(folder: Path) -> None:
    found = shard_record(folder / "s" / "00002.parquet")
    assert found is not None
    assert ShardRecord.model_validate_json(found).first_row == 5
    assert shard_record(folder / "prepared.yaml") is None


@pytest.mark.parametrize(
    ("name", "taken", "slug"),
    [
        ("VoiceAssistant-400K", [], "voiceassistant-400k"),
        ("jsonl:rows.jsonl", [], "jsonl-rows.jsonl"),
        ("../..", [], "source"),
        ("a b", ["a-b", "a-b-2"], "a-b-3"),
    ],
)
def test_slugs(name: str, taken: list[str], slug: str) -> None:
    assert make_slug(name, taken) == slug


def test_differences_name_the_field() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": None}
    assert differences(old, {"a": {"b": 2, "c": [1]}, "d": {"e": 3}}) == ["a.b was 1, is 2", 'd was null, is {"e": 3}']
    assert differences(old, {"a": {"b": 1, "c": [1]}, "d": None}) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "folder 'nowhere' doesn't exist"),
        ("memory://nothing-here", r"has no prepared\.yaml"),
        ("nope://x", "can't be opened: Protocol not known"),
    ],
)
def test_what_was_not_prepared_is_refused(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_shards(spec)


def test_is_prepared(folder: Path) -> None:
    assert is_prepared(folder)
    assert is_prepared("s3://bucket/x")
    assert not is_prepared(folder / "prepared.yaml")


def test_an_unfinished_folder_is_refused_unless_asked_for(tmp_path: Path, examples: list[Example]) -> None:
    made = write_folder(tmp_path / "made", [examples[:3]])
    lines = (made / "ledger.jsonl").read_text().splitlines(keepends=True)
    (made / "ledger.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="isn't finished: S"):
        open_shards(made)
    assert len(open_shards(made, allow_partial=True)[0]) == 3


def test_a_missing_or_short_shard_is_named(tmp_path: Path, examples: list[Example]) -> None:
    made = write_folder(tmp_path / "made", [examples[:3]])
    shard = made / "s" / "00000.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(DataError, match=rf"00000\.parquet' has {len(data) - 1} bytes instead of {len(data)}"):
        open_shards(made)
    feed = open_shards(to_memory(made, "short"))[0]
    with pytest.raises(DataError, match=r"shard 's/00000\.parquet' can't be read"):
        feed.example(0)
    shard.unlink()
    with pytest.raises(DataError, match="is in the ledger, but its file is missing"):
        open_shards(made)


def test_data_of_another_talker_are_refused(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    senses = talker_senses(talker)
    settings = Settings(encoder=senses.encoder_info, codec=senses.codec_info)
    prepared = Prepared(library_version="0", talker="t", rows_per_group=1, settings=settings, sources=[])
    check_fits(prepared, talker)

    other = tiny_talker(tmp_path / "other", "codec.options.seed=1")
    with pytest.raises(ConfigError, match=r"another codec: fingerprint was .* is"):
        check_fits(prepared, other)
    with pytest.raises(ConfigError, match="holds no sound"):
        check_fits(prepared, talker, waves=True)

    assert talker.model.encoder is not None
    with torch.no_grad():
        next(talker.model.encoder.parameters()).add_(1.0)
    save_talker(talker, tmp_path / "t", trained={"encoder"})
    trained = load_talker(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"features of another speech encoder: fingerprint .*it was trained since"):
        check_fits(prepared, trained)
    with_sound = prepared.model_copy(update={"settings": settings.model_copy(update={"sound": True})})
    check_fits(with_sound, trained, waves=True)


def test_prepared_yaml_survives(folder: Path) -> None:
    prepared = read_prepared(folder)
    assert prepared.sources[0].config.weight == 2.5
    assert read_prepared(to_memory(folder, "yaml")) == prepared
