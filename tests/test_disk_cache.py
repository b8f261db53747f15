"""What is kept between runs: made once, whole or not at all, bounded."""

import os
from pathlib import Path

import pytest

from anytalk import files
from anytalk.errors import ConfigError
from anytalk.plugins import disk_cache
from anytalk.plugins.disk_cache import clear, digest_of, entries, kept


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYTALK_CACHE_GB", raising=False)
    return tmp_path / "cache"


def write(place: Path, num_bytes: int = 10) -> None:
    place.mkdir()
    (place / "weights").write_bytes(b"x" * num_bytes)


def test_a_folder_is_made_once(folder: Path) -> None:
    made = []

    def make(place: Path) -> None:
        made.append(place)
        write(place)

    assert kept("a", "b", make) == kept("a", "b", make) == folder / "a"
    assert len(made) == 1
    (entry,) = entries()
    assert (entry.path, entry.num_bytes, entry.made_from) == (folder / "a", 11, "b")


def test_nothing_half_made_stays(folder: Path) -> None:
    def fail(place: Path) -> None:
        write(place)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        kept("a", "model", fail)
    assert entries() == []
    assert not list(folder.rglob("weights"))


def test_what_may_not_have_reached_the_disk_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = "first"
    monkeypatch.setattr(disk_cache, "_run_of_system", lambda: runs)
    kept("a", "model", write)
    kept("a", "model", lambda place: write(place, 20))
    assert (folder / "a" / "weights").stat().st_size == 10
    runs = "second"  # the machine was started again
    kept("a", "model", lambda place: write(place, 20))
    assert (folder / "a" / "weights").stat().st_size == 20
    note = folder / ".a.unforced"
    assert note.read_text() == "second"
    os.utime(note, (100, 100))  # it was used again, later
    kept("a", "model", write)
    assert not note.exists()
    runs = "third"
    kept("a", "model", write)
    assert (folder / "a" / "weights").stat().st_size == 20


def test_where_the_system_does_not_tell_its_runs_the_disk_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = []
    monkeypatch.setattr(disk_cache, "_run_of_system", str)
    monkeypatch.setattr(files, "flush", forced.append)
    kept("a", "model", write)
    assert [path.name for path in forced] == ["a"]
    assert not (folder / ".a.unforced").exists()


def test_what_was_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, used_at in (("a", 100), ("b", 200)):
        place = kept(name, "model", write)
        assert place is not None
        os.utime(place, (used_at, used_at))
    monkeypatch.setenv("ANYTALK_CACHE_GB", "35e-9")
    kept("c", "model", write)
    assert [entry.path.name for entry in entries()] == ["b", "c"]
    monkeypatch.setenv("ANYTALK_CACHE_GB", "0")
    assert kept("c", "model", write) is not None  # what is in use stays
    assert [entry.path.name for entry in entries()] == ["c"]


def test_a_bound_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="not a number"):
        kept("a", "model", write)


def test_a_cache_that_cannot_be_written_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "file"))
    assert kept("a", "model", write) is None
    assert "nothing can be cached" in caplog.text
    assert len(digest_of([tmp_path / "file"])) == 64


def test_a_digest_is_of_the_joined_content(tmp_path: Path) -> None:
    (tmp_path / "ab").write_bytes(b"ab")
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert digest_of([tmp_path / "a", tmp_path / "b"]) == digest_of([tmp_path / "ab"])
    first = digest_of([tmp_path / "a"])
    (tmp_path / "a").write_bytes(b"longer")
    assert digest_of([tmp_path / "a"]) != first


def test_one_or_all_are_cleared(folder: Path) -> None:
    for name, model in (("a", "smol"), ("b", "smol"), ("c", "whisper"), ("d", "other")):
        kept(name, model, write)
    digest_of([folder / "a" / "weights"])
    assert [entry.path.name for entry in clear("c")] == ["c"]
    assert [entry.path.name for entry in clear("smol")] == ["a", "b"]
    with pytest.raises(ConfigError, match="nothing in the cache is called 'c'"):
        clear("c")
    assert list(folder.glob(".digest-*"))
    assert [entry.path.name for entry in clear()] == ["d"]
    assert entries() == clear() == []
    assert not list(folder.glob(".digest-*"))
