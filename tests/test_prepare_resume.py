"""`anytalk prepare` through kills, dead workers and Ctrl-C: shards are those of an undisturbed run, made once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_talker, training_rows, write_lines

from anytalk.data.config import DataConfig
from anytalk.data.ledger import LedgerFile, ShardRecord, read_ledger
from anytalk.data.prepare import PrepareOptions, PrepareWatcher, prepare
from anytalk.data.shards import ShardWriter
from anytalk.errors import DataError

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE)}
ROWS_PER_SHARD = 4


def make_data(folder: Path, num_rows: int, rows_per_shard: int = ROWS_PER_SHARD) -> DataConfig:
    """A talker and two sources with a broken row in every shard."""
    tiny_talker(folder / "tiny")
    training_rows(folder, 3)
    lines: list[Any] = [
        {
            "question_text": f"q{i}?",
            "question_audio": f"q{i % 3}.wav",
            "answer_text": f"a{i}",
            "answer_audio": f"a{i % 3}.wav",
        }
        for i in range(num_rows)
    ]
    for i in range(1, num_rows, rows_per_shard):
        lines[i] = {"nonsense": i}
    write_lines(folder / "first.jsonl", lines)
    write_lines(folder / "second.jsonl", lines[: num_rows // 2])
    sources = [{"kind": "jsonl", "name": n, "path": str(folder / f"{n}.jsonl")} for n in ("first", "second")]
    (folder / "data.yaml").write_text(json.dumps({"sources": sources}))
    return DataConfig.model_validate({"sources": sources})


def straight(folder: Path, config: DataConfig, rows_per_shard: int = ROWS_PER_SHARD) -> Path:
    out = folder / "straight"
    prepare(config, out, folder / "tiny", PrepareOptions(rows_per_shard=rows_per_shard))
    return out


def assert_same_folder(out: Path, expected: Path) -> None:
    def shards(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.parquet"))}

    assert shards(out) == shards(expected)
    assert (out / "rejected.jsonl").read_bytes() == (expected / "rejected.jsonl").read_bytes()
    ours, theirs = read_ledger(out), read_ledger(expected)
    assert ours.complete == theirs.complete
    timeless = [
        {key: record.model_copy(update={"seconds": None}) for key, record in ledger.shards.items()}
        for ledger in (ours, theirs)
    ]
    assert timeless[0] == timeless[1]
    keys = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert len(keys) == len(ours.shards) + len(ours.complete), "a line of the ledger is doubled"
    assert not [path for path in out.rglob("*") if "partial" in path.name]


# ---- a kill at every moment that matters: before and after each rename and sync, and within a line of the ledger
#
# What a kill leaves behind is what lies on the disk at that moment, so one run is enough to see them all: its folder is
# copied at each of them, and every copy is then gone on with.


class Camera:
    """Copies a folder at each event of a run; notes each shard that gets its name."""

    def __init__(self, out: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.album = out, album
        self.pictures: list[Path] = []
        self.made: list[str] = []
        real_replace, real_append = Path.replace, LedgerFile._append

        def replace(path: Path, target: Path) -> Any:
            self.take()
            done = real_replace(path, target)
            if target.suffix == ".parquet":
                self.made.append(str(target.relative_to(out)))
            self.take()
            return done

        def append(ledger: LedgerFile, entry: dict[str, Any]) -> None:
            torn = self.take() / "ledger.jsonl"
            with torn.open("ab") as file:
                file.write(json.dumps(entry).encode()[:25])
            real_append(ledger, entry)

        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(LedgerFile, "_append", append)
        monkeypatch.setattr(os, "fsync", lambda handle: self.take())

    def take(self) -> Path:
        self.pictures.append(self.album / f"{len(self.pictures):03d}")
        shutil.copytree(self.out, self.pictures[-1])
        return self.pictures[-1]


def photographed(folder: Path, out: Path, config: DataConfig, name: str) -> Camera:
    """A run, with a copy of its folder at every event."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        camera = Camera(out, folder / name, monkeypatch)
        prepare(config, out, folder / "tiny", PrepareOptions(rows_per_shard=ROWS_PER_SHARD))
    return camera


def whole_shards(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.glob("*/[0-9]*.parquet")}


def finished_shards(out: Path, folder: Path, config: DataConfig) -> list[Path]:
    """Shards that a run makes."""
    made: list[Path] = []
    finish = ShardWriter.finish

    def noted(writer: ShardWriter, record: str) -> int:
        made.append(writer.path)
        return finish(writer, record)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ShardWriter, "finish", noted)
        prepare(config, out, folder / "tiny", PrepareOptions(rows_per_shard=ROWS_PER_SHARD))
    return made


def test_a_kill_at_any_moment_loses_and_redoes_nothing(tmp_path: Path) -> None:
    config = make_data(tmp_path, 10)
    expected = straight(tmp_path, config)
    first = photographed(tmp_path, tmp_path / "out", config, "first")
    assert_same_folder(tmp_path / "out", expected)
    assert len(first.made) == 5
    assert len(first.pictures) > 50
    for picture in first.pictures:
        there = whole_shards(picture)
        made = finished_shards(picture, tmp_path, config)
        assert_same_folder(picture, expected)
        names = [str(path.relative_to(picture)) for path in made]
        assert sorted([*there, *names]) == sorted(first.made), f"{picture}: a shard was made twice, or never"


def test_a_run_that_is_killed_again_and_again_gets_to_its_end(tmp_path: Path) -> None:
    config = make_data(tmp_path, 10)
    expected = straight(tmp_path, config)
    state, kills, step, made = tmp_path / "out", 0, 17, 0
    while kills < 20:
        before = len(whole_shards(state))
        camera = photographed(tmp_path, state, config, f"run-{kills}")
        if len(camera.pictures) < step:
            break
        state, kills = camera.pictures[step - 1], kills + 1
        made += len(whole_shards(state)) - before
    assert 3 <= kills < 20
    assert made <= 5
    assert_same_folder(state, expected)


def test_a_kill_while_sound_comes_out_of_parquet_loses_and_redoes_nothing(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Audio, Features, Value

    tiny_talker(tmp_path / "tiny")
    training_rows(tmp_path, 3)
    sounds = {"question_audio": "q", "answer_audio": "a"}
    columns = {"question_text": Value("string"), "answer_text": Value("string"), **dict.fromkeys(sounds, Audio())}
    records = [
        {
            **{
                field: {"bytes": (tmp_path / f"{n}{i % 3}.wav").read_bytes(), "path": f"{n}.wav"}
                for field, n in sounds.items()
            },
            "question_text": f"q{i}?",
            "answer_text": f"a{i}",
        }
        for i in range(14)
    ]
    records[5]["question_audio"] = {"bytes": b"no sound", "path": "broken.wav"}
    (tmp_path / "table").mkdir()
    for number in range(2):
        table = pa.Table.from_pylist(records[number::2], schema=Features(columns).arrow_schema)
        pq.write_table(table, tmp_path / "table" / f"{number}.parquet", row_group_size=3)
    source = {"kind": "hf", "name": "table", "path": str(tmp_path / "table")}
    config = DataConfig.model_validate({"sources": [source]})
    expected = straight(tmp_path, config)
    assert sum(record.kept for record in read_ledger(expected).shards.values()) == 13
    first = photographed(tmp_path, tmp_path / "out", config, "first")
    for share in (0.25, 0.5, 0.75):
        picture = first.pictures[int(share * len(first.pictures))]
        before = len(whole_shards(picture))
        assert len(finished_shards(picture, tmp_path, config)) == 4 - before
        assert_same_folder(picture, expected)


# ---- two workers


def children_of(pid: int) -> list[int]:
    """Worker processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for worker processes in /proc")


@needs_proc
def test_a_dead_worker_is_said_and_its_shards_are_made_by_the_next_run(tmp_path: Path) -> None:
    config = make_data(tmp_path, 60)
    expected, out = straight(tmp_path, config), tmp_path / "out"

    def kill_one(record: ShardRecord) -> None:
        # Shards that were ready together are told one after the other; by then the pool may have ended all workers.
        for worker in children_of(os.getpid())[:1]:
            os.kill(worker, signal.SIGKILL)

    options = PrepareOptions(rows_per_shard=ROWS_PER_SHARD, workers=2)
    with pytest.raises(DataError, match="the system killed a worker") as caught:
        prepare(config, out, tmp_path / "tiny", options, watcher=PrepareWatcher(shard=kill_one))
    assert "fewer --workers" in caught.value.hint
    assert 1 <= len(read_ledger(out).shards) < 23
    assert children_of(os.getpid()) == []
    prepare(config, out, tmp_path / "tiny", PrepareOptions(rows_per_shard=ROWS_PER_SHARD))
    assert_same_folder(out, expected)


def wait_until(check: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    began = time.monotonic()
    while not check():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)


@needs_proc
@pytest.mark.slow
def test_the_program_with_two_workers_through_kill_and_ctrl_c(tmp_path: Path) -> None:
    config = make_data(tmp_path, 800, rows_per_shard=20)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "anytalk", "prepare", str(tmp_path / "data.yaml"), "-o", str(out)]
    command += ["--talker", str(tmp_path / "tiny"), "--workers", "2", "--rows-per-shard", "20", "--device", "cpu"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def shards() -> int:
        return len(read_ledger(out).shards) if (out / "prepared.yaml").is_file() else 0

    def run_until_more(process: subprocess.Popen[str]) -> None:
        before = shards()
        wait_until(lambda: shards() > before + 2, process)

    def is_gone(pid: int) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().split()[2] == "Z"

    for _ in range(2):
        process = start()
        run_until_more(process)
        workers = children_of(process.pid)
        assert len(workers) == 2
        process.kill()
        process.communicate()
        for _ in range(250):
            if all(map(is_gone, workers)):
                break
            time.sleep(0.02)
        assert all(map(is_gone, workers)), "workers outlived their parent"

    process = start()
    run_until_more(process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "go on with the same command" in said
    assert "Traceback" not in said

    done = shards()
    assert 0 < done < 60
    prepare(config, out, tmp_path / "tiny", PrepareOptions(rows_per_shard=20))
    assert_same_folder(out, straight(tmp_path, config, rows_per_shard=20))
