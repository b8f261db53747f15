"""Files and folders are written whole or not at all, and what was there stays until then."""

import os
import threading
from pathlib import Path

import pytest

from anytalk.files import partial_of, put_back, put_in_place, remove_leftovers, write_whole, written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_replaces_the_one_before(tmp_path: Path) -> None:
    for text in ("one", "grün 🐝\n"):
        write_whole(tmp_path / "a" / "b.txt", text)
        assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == text
    assert names(tmp_path / "a") == ["b.txt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_leaves_what_was_there(kind: str, error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x.png"

    def write(text: str, fault: BaseException | None = None) -> None:
        with written_whole(path) as partial:
            assert partial.name == path.name
            if kind == "folder":
                partial.mkdir()
            (partial / "in" if kind == "folder" else partial).write_text(text)
            if fault is not None:
                raise fault

    write("old")
    with pytest.raises(type(error)):
        write("new", error)
    assert names(tmp_path) == ["x.png"]
    assert (path / "in" if kind == "folder" else path).read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with written_whole(tmp_path / "f") as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["second"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    with written_whole(tmp_path / "f") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "a").write_text("a")
        (partial / "b").write_text("b")
    assert set(synced[:-1]) == {"a", "b", "deep", "f"}
    assert synced[-1] == tmp_path.name


def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "old").write_text("old")
    partial = partial_of(folder)
    partial.mkdir(parents=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(partial, folder)
    monkeypatch.undo()
    assert not folder.exists()
    put_back(folder)
    assert names(folder) == ["old"]
    put_back(folder)
    assert names(folder) == ["old"]
    remove_leftovers(folder)
    assert names(tmp_path) == ["f"]


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "file").symlink_to(tmp_path / "real" / "target")
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "real" / "target").read_text() == "new"
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with written_whole(tmp_path / "link") as partial:
        partial.mkdir()
        (partial / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "real"]


def test_links_that_lead_to_each_other_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "loop", "x")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_device_or_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """As an administrator, `-o /dev/null` must not put a file in the place of the device."""
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "said")
    reader.join(10)
    assert read == ["said"]
    assert pipe.is_fifo()
