"""Tables through `datasets`: parquet, arrow, json and csv, with sound in their columns."""

import gc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import write_lines
from test_sources import RATE_HZ, good_rows, is_heard, reasons, refused, rows_of, source_of, tone_file

from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Message, Row, Sound

datasets = pytest.importorskip("datasets")

# `datasets` leaves files open for the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    gc.collect()


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(np.arange(3200) * 0.2), RATE_HZ, format="FLAC")
    return buffer.getvalue()


def as_sound(data: Any, *columns: str) -> Any:
    """A data set of dicts; its columns {bytes, path} marked as sound, as published sets have them."""
    table = datasets.Dataset.from_list(data)
    features = datasets.Features({**table.features, **{column: datasets.Audio() for column in columns}})
    return table.cast(features)


SPOKEN = [{"audio": {"bytes": flac(), "path": f"{i}.flac"}, "text": f"text {i}", "id": i} for i in range(3)]


# ---- hf


def test_empty_pieces_of_parquet_have_no_rows(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list([{"text": f"text {i}"} for i in range(3)])
    table.select([]).to_parquet(tmp_path / "none.parquet")
    assert list(source_of("hf", tmp_path / "none.parquet").rows()) == []
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    for number, rows in enumerate(([0], [], [1, 2])):
        table.select(rows).to_parquet(pieces / f"train-{number:05}-of-00003.parquet")
    assert [row.question_text for row in good_rows("hf", pieces)] == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("stored", ["parquet", "folder", "arrow", "saved", "saved with splits"])
def test_sound_in_columns_stays_a_file(stored: str, tmp_path: Path) -> None:
    table, path = as_sound(SPOKEN, "audio"), tmp_path / "rows.parquet"
    if stored == "parquet":
        table.to_parquet(path)
    elif stored == "folder":
        path = tmp_path / "rows"
        path.mkdir()
        table.select([0]).to_parquet(path / "train-00000-of-00002.parquet")
        table.select([1, 2]).to_parquet(path / "train-00001-of-00002.parquet")
    elif stored == "arrow":
        table.save_to_disk(tmp_path / "saved")
        path = next((tmp_path / "saved").glob("*.arrow"))
    else:
        path = tmp_path / "saved"
        (datasets.DatasetDict({"train": table}) if "splits" in stored else table).save_to_disk(path)
    rows = good_rows("hf", path)
    assert rows == [
        Row(
            id=f"{path.name}:{i + 1}",
            question_text=f"text {i}",
            question_audio=Sound(name=f"{path.name}:{i + 1}, {i}.flac", data=flac()),
        )
        for i in range(3)
    ]
    assert is_heard(rows[0].question_audio)
    copies = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not copies, "local files must be read from where they lie"


def test_columns_are_mapped_also_nested_ones(tmp_path: Path) -> None:
    tone_file(tmp_path / "sounds" / "a.wav")
    wave = [0.5, -0.5, 0.25, 0.0]
    rows = [
        {
            "talk": {"said": "hi", "by": {"bytes": flac(), "path": None}},
            "answers": ["first", "second"],
            "path": "sounds/a.wav",
            "wave": {"array": wave, "sampling_rate": 8_000},
            "who": 7,
            "text": "not asked for",
        }
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    columns = {
        "question_text": "talk.said",
        "question_audio": "talk.by",
        "answer_text": "answers.1",
        "answer_audio": "path",
        "speaker": "who",
    }
    (row,) = good_rows("hf", tmp_path / "rows.parquet", columns=columns)
    assert row == Row(
        id="rows.parquet:1",
        question_text="hi",
        question_audio=Sound(name="rows.parquet:1, question_audio", data=flac()),
        answer_text="second",
        answer_audio=tmp_path / "sounds" / "a.wav",
        speaker="7",
    )
    (row,) = good_rows("hf", tmp_path / "rows.parquet", columns={"question_audio": "wave"})
    assert isinstance(row.question_audio, Sound)
    assert row.question_audio.samples is not None
    assert row.question_audio.samples.dtype == np.float32
    assert row.question_audio.samples.tolist() == wave
    assert row.question_audio.sample_rate_hz == 8_000
    assert row.question_text == "not asked for"


@pytest.mark.parametrize(
    ("array", "samples"),
    [
        ([16384, -32768], [0.5, -1.0]),
        ([[0.5, 0.25, 0.0], [1.0, 0.75, 0.5]], [[0.5, 1.0], [0.25, 0.75], [0.0, 0.5]]),
    ],
)
def test_samples_come_as_floats_with_channels_last(array: Any, samples: Any, tmp_path: Path) -> None:
    rows = [{"audio": {"array": array, "sampling_rate": 8_000}}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (row,) = good_rows("hf", tmp_path / "rows.parquet")
    assert isinstance(row.question_audio, Sound)
    assert row.question_audio.samples is not None
    assert row.question_audio.samples.tolist() == samples


def test_json_and_csv_through_datasets(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"q": "a", "answer_text": "b"}, {"q": "c", "answer_text": None}])
    rows = good_rows("hf", tmp_path / "rows.jsonl", columns={"question_text": "q"})
    assert [(row.question_text, row.answer_text) for row in rows] == [("a", "b"), ("c", None)]
    (tmp_path / "rows.tsv").write_text("question_text\tother\na, b\t1\n")
    (row,) = good_rows("hf", tmp_path / "rows.tsv")
    assert row.question_text == "a, b"


def test_an_address_is_read_as_it_comes(tmp_path: Path) -> None:
    as_sound(SPOKEN, "audio").to_parquet(tmp_path / "rows.parquet")
    rows = good_rows("hf", f"file://{tmp_path}/rows.parquet")
    assert [row.id for row in rows] == ["rows.parquet:1", "rows.parquet:2", "rows.parquet:3"]
    assert is_heard(rows[2].question_audio)


def test_bad_sound_is_a_bad_row(tmp_path: Path) -> None:
    data = [{"audio": {"bytes": None, "path": path}, "text": "x"} for path in ("none.wav", None)]
    data += [{"audio": None, "text": "y"}]
    datasets.Dataset.from_list([*data, SPOKEN[0]]).to_parquet(tmp_path / "rows.parquet")
    assert reasons(rows_of("hf", tmp_path / "rows.parquet")) == [
        "rows.parquet:1: sound file 'none.wav' doesn't exist",
        "rows.parquet:2: field 'question_audio' holds no sound (neither bytes, path nor array)",
        "rows.parquet:3",
        "rows.parquet:4",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": {"answer_txt": "text"}}, "columns: unknown field 'answer_txt'; did you mean 'answer_text'?"),
        ({"columns": {"answer_text": "txt"}}, "(for 'answer_text'): column 'txt' is missing; is it 'text'?"),
        ({"split": "test"}, "Bad split: test. Available splits: ['train']"),
    ],
)
def test_wrong_columns_and_splits_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    as_sound(SPOKEN, "audio").to_parquet(tmp_path / "rows.parquet")
    assert words in refused("hf", tmp_path / "rows.parquet", **options)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("no parquet")
    assert "'" + str(tmp_path / "rows.parquet") + "' can't be opened" in refused("hf", tmp_path / "rows.parquet")
    (tmp_path / "rows.bin").write_text("x")
    assert "its suffix is '.bin'" in refused("hf", tmp_path / "rows.bin")
    datasets.Dataset.from_list([{"a": "x"}]).to_parquet(tmp_path / "other.parquet")
    assert "none of its columns is a field: a" in refused("hf", tmp_path / "other.parquet")
    datasets.DatasetDict({"dev": as_sound(SPOKEN, "audio")}).save_to_disk(tmp_path / "saved")
    assert "Unknown split 'train'. It has: dev" in refused("hf", tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    assert "can't be opened" in refused("hf", tmp_path / "empty")


def test_a_file_that_breaks_off_names_the_row(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"text": "x" * 100}] * 3)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"text": ')
    said = refused("hf", tmp_path / "rows.jsonl")
    assert "rows.jsonl:" in said or "can't be opened" in said


@pytest.mark.parametrize("streaming", [True, False])
def test_the_hub_without_a_network_is_a_sentence(streaming: bool) -> None:
    said = refused("hf", "nobody/no-such-set", streaming=streaming)
    assert said.startswith("'nobody/no-such-set' can't be reached on the hub: ")


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
            "doesn't exist on the Hub",
            "check the id",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            "'a/b' is a gated data set",
            "hf auth login",
        ),
        (ValueError("Config name is missing. Pick one among: ['x', 'y']"), "Pick one among", "config:"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "no longer supported", "no code"),
    ],
)
def test_what_the_hub_says_becomes_a_sentence(
    error: Exception, words: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(Exception, match=words) as caught:
        next(source_of("hf", "a/b").rows())
    assert hint in caught.value.hint  # type: ignore[attr-defined]


def test_a_hub_set_is_asked_for_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load(*args: Any, **kwargs: Any) -> Any:
        asked.update(kwargs, args=args)
        return datasets.Dataset.from_list([{"text": "x"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    (row,) = good_rows("hf", "a/b", config="clean", split="dev", streaming=True, revision="v1")
    assert (row.id, row.question_text) == ("b:1", "x")
    assert asked == {"args": ("a/b", "clean"), "split": "dev", "streaming": True, "revision": "v1"}
    columns = {"question_audio": "text"}
    assert reasons(rows_of("hf", "a/b", columns=columns)) == ["b:1: sound file 'x' doesn't exist"]


# ---- textqa


@pytest.mark.parametrize(
    ("record", "question", "answer", "system"),
    [
        ({"id": "1", "system_prompt": "Be kind.", "question": "Q", "response": "A"}, "Q", "A", "Be kind."),
        ({"id": "1", "system_prompt": "", "question": "Q", "response": "A"}, "Q", "A", None),
        ({"instruction": "Sort.", "input": "b, a", "output": "a, b", "text": "Below"}, "Sort.\nb, a", "a, b", None),
        ({"instruction": "Sort.", "input": "", "output": "a, b"}, "Sort.", "a, b", None),
        ({"instruction": "Sort.", "input": "<noinput>", "output": "a, b"}, "Sort.", "a, b", None),
        ({"instruction": "Q", "context": "C", "response": "A", "category": "qa"}, "Q\nC", "A", None),
        ({"prompt": "Q ", "completion": " A"}, "Q", "A", None),
        ({"question_text": "Q", "answer_text": "A"}, "Q", "A", None),
        ({"question": "Q", "answer": "A"}, "Q", "A", None),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_text_layouts_are_known_by_their_columns(
    record: dict[str, str], question: str, answer: str, system: str | None, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"qa.{suffix}"
    if suffix == "jsonl":
        write_lines(path, [record])
    else:
        datasets.Dataset.from_list([record]).to_parquet(path)
    history = () if system is None else (Message(role="system", text=system),)
    assert good_rows("textqa", path) == [
        Row(id=f"qa.{suffix}:1", question_text=question, answer_text=answer, history=history)
    ]


def test_text_columns_can_be_named(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "qa.jsonl", [{"q": {"en": "Q"}, "a": "A", "s": "S", "c": "C"}, {"q": {}, "a": "A"}, {"q": None}]
    )
    rows = rows_of("textqa", path, question="q.en", answer="a", more="c", system="s")
    assert rows[0] == Row(
        id="qa.jsonl:1", question_text="Q\nC", answer_text="A", history=(Message(role="system", text="S"),)
    )
    assert reasons(rows[1:]) == [
        "qa.jsonl:2: column 'q.en' is missing",
        "qa.jsonl:3: column 'a' is missing",
    ]


def test_text_that_is_wrong_is_named(tmp_path: Path) -> None:
    lines = [{"question": "Q", "answer": "A"}, {"question": " ", "answer": "A"}, {"question": "Q", "answer": ["A"]}]
    path = write_lines(tmp_path / "qa.jsonl", lines)
    assert reasons(rows_of("textqa", path)) == [
        "qa.jsonl:1",
        "qa.jsonl:2: column 'question' is empty",
        "qa.jsonl:3: field 'answer' is a list; text is expected",
    ]
    assert "column 'quest' is missing; did you mean 'question'?" in refused(
        "textqa", path, question="quest", answer="answer"
    )
    other = write_lines(tmp_path / "other.jsonl", [{"a": "x", "b": "y"}])
    assert "no known question and answer among its columns: a, b" in refused("textqa", other)
    with pytest.raises(ConfigError, match="one of 'question' and 'answer'"):
        source_of("textqa", path, question="q")
