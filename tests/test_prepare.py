"""`anytalk prepare` in one process: what a row becomes, what is left out and why, what may change between two calls."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny_talker, training_rows, write_lines
from shard_helpers import assert_same

from anytalk.data.config import DataConfig, SourceConfig
from anytalk.data.encoding import RowEncoder
from anytalk.data.ledger import Ledger, read_ledger, read_prepared, source_digest
from anytalk.data.prepare import PrepareOptions, PrepareWatcher, prepare
from anytalk.data.shard_feed import open_shards
from anytalk.data.shards import ShardWriter
from anytalk.errors import ConfigError, DataError, UnknownNameError
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker, save_talker
from anytalk.plugins.contracts import Row

ALL = [task for _, task in sorted(TASKS.items())]


# Workers run on one thread, and on some processors two threads round differently.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return tiny_talker(tmp_path_factory.mktemp("prepare") / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return training_rows(tmp_path, 7)


def config_of(path: Path, **changes: Any) -> DataConfig:
    source = {"kind": "jsonl", "path": str(path), **changes.pop("source", {})}
    return DataConfig.model_validate({"sources": [source], **changes})


def run(talker: Talker, out: Path, config: DataConfig, **changes: Any) -> Ledger:
    assert talker.folder is not None
    options = {"rows_per_shard": 3, **changes}
    return prepare(config, out, talker.folder, PrepareOptions(**options))[1]


def rejected(out: Path) -> list[tuple[int, str, str]]:
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return [(line["row"], line["kind"], line["reason"]) for line in lines]


def digests(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


def test_shards_hold_what_encoding_the_rows_gives(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    ledger = run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    feed = open_shards(tmp_path / "out")[0]
    encoder = RowEncoder(encoder=talker.model.encoder, codec=talker.codec)
    for index, row in enumerate(rows):
        assert_same(feed.example(index), encoder.example(row, ALL))
    assert [(r.first_row, r.rows, r.kept) for r in ledger.of("jsonl-rows.jsonl")] == [
        (0, 3, 3),
        (3, 3, 3),
        (6, 1, 1),
    ]
    assert feed.indices("A1A2").tolist() == list(range(7))
    record = ledger.of("jsonl-rows.jsonl")[0]
    assert record.question_s == pytest.approx(0.6)
    assert record.answer_s == pytest.approx(3 * 4 / 50)
    assert record.seconds is not None


def test_a_length_that_shards_divide_leaves_no_empty_shard(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    ledger = run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl", source={"limit": 6}))
    assert len(ledger.shards) == 2
    assert ledger.complete == {"jsonl-rows.jsonl": 6}


def test_without_features_the_sound_is_kept(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"), features=False)
    clip = open_shards(tmp_path / "out")[0].example(2).clip
    assert clip is not None
    assert clip.features is None
    assert clip.wave is not None
    assert rows[2].question_audio is not None
    heard = soundfile.read(str(rows[2].question_audio), dtype="float32")[0]
    assert np.array_equal(clip.wave.numpy(), heard)
    assert clip.num_frames == 10


def test_every_reason_to_leave_a_row_out(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    soundfile.write(tmp_path / "long.wav", 0.1 * np.sin(np.arange(16_000)), 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), 16_000)
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    good = {"question_text": "Hi", "question_audio": "q0.wav", "answer_text": "Ho", "answer_audio": "a0.wav"}
    lines = [
        good,
        {**good, "qestion": "x"},
        {**good, "question_audio": "long.wav"},
        {**good, "answer_audio": "long.wav"},
        {**good, "question_text": "x" * 11},
        {**good, "answer_text": "x" * 21},
        {**good, "question_audio": "noise.wav"},
        {**good, "question_audio": "silent.wav"},
        {"question_text": "only"},
        {**good, "answer_text": "\ud800"},
        good,
    ]
    write_lines(tmp_path / "mixed.jsonl", lines)
    filters = {"max_question_s": 0.5, "max_answer_s": 0.6, "max_question_chars": 10, "max_answer_chars": 20}
    ledger = run(talker, tmp_path / "out", config_of(tmp_path / "mixed.jsonl", source={"filters": filters}))
    found = rejected(tmp_path / "out")
    assert [(row, kind) for row, kind, _ in found] == [
        (1, "broken row"),
        (2, "question too long"),
        (3, "answer too long"),
        (4, "question text too long"),
        (5, "answer text too long"),
        (6, "unreadable sound"),
        (7, "unusable"),
        (8, "serves no task"),
        (9, "broken row"),
    ]
    reasons = [reason for _, _, reason in found]
    assert "unknown field 'qestion'" in reasons[0]
    assert reasons[1] == "the question lasts 1.00 s; max_question_s is 0.5"
    assert reasons[4] == "the answer has 21 characters; max_answer_chars is 20"
    assert "is silent" in reasons[6]
    assert "it has only question_text" in reasons[7]
    counts: dict[str, int] = {}
    for record in ledger.shards.values():
        for kind, number in record.rejected.items():
            counts[kind] = counts.get(kind, 0) + number
    assert sum(counts.values()) == 9
    assert sum(record.kept for record in ledger.shards.values()) == 2
    feed = open_shards(tmp_path / "out")[0]
    assert [feed.example(i).id for i in range(2)] == ["mixed.jsonl:1", "mixed.jsonl:11"]


# ---- what may change between two calls


def test_nothing_is_done_twice(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    config = config_of(tmp_path / "rows.jsonl")
    run(talker, tmp_path / "out", config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.parquet")}
    told: list[int] = []
    assert talker.folder is not None
    watcher = PrepareWatcher(rows=lambda rows, _: told.append(rows))
    prepare(config, tmp_path / "out", talker.folder, PrepareOptions(rows_per_shard=3), watcher=watcher)
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"seed": 1}, {}, "seed was 0, is 1"),
        ({"voice": {"answer_voice": "joe"}}, {}, "voice was null"),
        ({"source": {"limit": 5}}, {}, r"source 'jsonl:rows\.jsonl'\.limit was null, is 5"),
        ({"source": {"filters": {"max_answer_s": 3}}}, {}, r"filters\.max_answer_s was null, is 3"),
        ({"source": {"name": "other"}}, {}, r"source 'jsonl:rows\.jsonl' is no longer there"),
        ({}, {"half": True}, "half was false, is true"),
        ({}, {"rows_per_shard": 4}, "rows_per_shard was 3, is 4"),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, talker: Talker, rows: list[Row], changes: Any, options: Any, message: str
) -> None:
    run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    before = digests(tmp_path / "out"), (tmp_path / "out" / "prepared.yaml").read_bytes()
    with pytest.raises(ConfigError, match=message):
        run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl", **changes), **options)
    assert (digests(tmp_path / "out"), (tmp_path / "out" / "prepared.yaml").read_bytes()) == before


def test_a_changed_file_is_refused_and_a_moved_one_is_not(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    config = config_of(tmp_path / "rows.jsonl", source={"name": "n"})
    run(talker, tmp_path / "out", config)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    run(talker, tmp_path / "out", config_of(moved, source={"name": "n"}))
    with moved.open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="the file of source 'n' was changed since"):
        run(talker, tmp_path / "out", config_of(moved, source={"name": "n"}))


def test_a_row_that_was_changed_in_the_middle_is_seen(tmp_path: Path) -> None:
    path, piece = tmp_path / "rows.jsonl", b"x" * (1 << 20)
    path.write_bytes(piece + b"one" + piece)
    source = SourceConfig(kind="jsonl", name="n", path=str(path))
    before, of_ends = source_digest(source), source_digest(source, like="0123456789abcdef")
    path.write_bytes(piece + b"two" + piece)
    assert source_digest(source, like=before) != before
    assert source_digest(source, like=of_ends) == of_ends  # of a folder that an older version prepared


def test_another_codec_and_a_trained_encoder_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    talker = tiny_talker(tmp_path / "t")
    run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    other = tiny_talker(tmp_path / "other", "codec.options.seed=1")
    with pytest.raises(ConfigError, match=r"codec\.fingerprint was"):
        run(other, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    assert talker.model.encoder is not None
    with torch.no_grad():
        next(talker.model.encoder.parameters()).add_(0.5)
    save_talker(talker, tmp_path / "t", trained={"encoder"})
    with pytest.raises(ConfigError, match=r"encoder\.fingerprint was"):
        run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    # The trained encoder is what a new folder is made with.
    run(talker, tmp_path / "new", config_of(tmp_path / "rows.jsonl"))
    clip = open_shards(tmp_path / "new")[0].example(0).clip
    expected = RowEncoder(encoder=talker.model.encoder, codec=talker.codec).example(rows[0], ALL).clip
    assert clip is not None
    assert clip.features is not None
    assert expected is not None
    assert expected.features is not None
    assert torch.equal(clip.features, expected.features)


def test_the_encoder_may_run_under_bfloat16(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    config = config_of(tmp_path / "rows.jsonl")
    for out, bf16 in (("exact", False), ("rounded", True)):
        run(talker, tmp_path / out, config, bf16=bf16)
    exact, rounded = (open_shards(tmp_path / out)[0].example(0).clip.features for out in ("exact", "rounded"))  # type: ignore[union-attr]
    assert exact is not None
    assert rounded is not None
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.05, rtol=0.05)
    with pytest.raises(ConfigError, match="bf16 was"):
        run(talker, tmp_path / "rounded", config)


def test_sources_may_be_added_and_weights_may_change(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    one = {"kind": "jsonl", "name": "A b", "path": str(tmp_path / "rows.jsonl")}
    run(talker, tmp_path / "out", DataConfig.model_validate({"sources": [one]}))
    before = digests(tmp_path / "out")
    open_shards(tmp_path / "out")[0].example(0)
    two = {**one, "name": "a-b", "limit": 2, "tasks": ["T1T2"]}
    both = DataConfig.model_validate({"sources": [two, {**one, "weight": 3.0}]})
    run(talker, tmp_path / "out", both)
    after = digests(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"a-b-2/00000.parquet"}
    feeds = open_shards(tmp_path / "out")
    assert [(f.name, f.weight, len(f)) for f in feeds] == [("a-b", 1.0, 2), ("A b", 3.0, 7)]
    assert feeds[0].indices("A1A2").tolist() == []
    assert feeds[0].example(1).clip is None


# ---- trouble


def test_a_full_disk_is_said_and_the_next_call_goes_on(
    tmp_path: Path, talker: Talker, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path / "rows.jsonl")
    run(talker, tmp_path / "straight", config)
    finish = ShardWriter.finish

    def full(self: ShardWriter, record: str) -> int:
        if self.path.name == "00001.parquet":
            raise OSError(errno.ENOSPC, "No space left on device")
        return finish(self, record)

    monkeypatch.setattr(ShardWriter, "finish", full)
    with pytest.raises(DataError, match="disk is full") as caught:
        run(talker, tmp_path / "out", config)
    assert "run the same command again" in caught.value.hint
    assert [r.number for r in read_ledger(tmp_path / "out").of("jsonl-rows.jsonl")] == [0]
    assert not list((tmp_path / "out").rglob("*.partial*"))
    monkeypatch.undo()
    run(talker, tmp_path / "out", config)
    assert digests(tmp_path / "out") == digests(tmp_path / "straight")


def test_a_bug_costs_a_row_but_not_every_row(
    tmp_path: Path, talker: Talker, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = RowEncoder._encoded

    def sometimes(self: RowEncoder, row: Row, *arguments: Any) -> Any:
        if row.id.endswith(":2"):
            raise ZeroDivisionError("of a plugin")
        return encode(self, row, *arguments)

    monkeypatch.setattr(RowEncoder, "_encoded", sometimes)
    run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    assert rejected(tmp_path / "out") == [(1, "failed", "ZeroDivisionError: of a plugin")]

    def always(self: RowEncoder, row: Row, *arguments: Any) -> Any:
        raise ZeroDivisionError("of a plugin")

    monkeypatch.setattr(RowEncoder, "_encoded", always)
    write_lines(tmp_path / "many.jsonl", [{"question_text": "q", "answer_text": "a"}] * 8)
    with pytest.raises(DataError, match=r"all 8 rows from many\.jsonl:1 on failed.*of a plugin"):
        run(talker, tmp_path / "many", config_of(tmp_path / "many.jsonl"), rows_per_shard=8)


def test_a_second_process_and_a_foreign_folder_are_refused(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    import filelock

    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(ConfigError, match="another `anytalk prepare` is working"),
    ):
        run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    with pytest.raises(ConfigError, match="holds other files"):
        run(talker, tmp_path, config_of(tmp_path / "rows.jsonl"))


def test_an_unknown_task_of_a_source_is_named(tmp_path: Path, talker: Talker, rows: list[Row]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'A1A3'; did you mean"):
        run(talker, tmp_path / "out", config_of(tmp_path / "rows.jsonl", source={"tasks": ["A1A3"]}))


def test_a_talker_without_ears_serves_what_is_typed(tmp_path: Path, rows: list[Row]) -> None:
    deaf = tiny_talker(tmp_path / "deaf", "encoder=null")
    run(deaf, tmp_path / "out", config_of(tmp_path / "rows.jsonl"))
    feed = open_shards(tmp_path / "out")[0]
    assert feed.example(0).tasks == ("T1A1", "T1A2", "T1T2")
    assert feed.example(0).clip is None
    assert read_prepared(tmp_path / "out").settings.encoder is None
