"""LibriSpeech, LibriTTS, MLS and VCTK: folders as they are published."""

from pathlib import Path

import pytest
from test_sources import good_rows, is_heard, reasons, refused, rows_of, tone_file

from anytalk.plugins.contracts import Row

BOTH = ("A1T1", "T1A1")


def text_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def utterance(where: str, text: str, audio: Path, speaker: str) -> Row:
    return Row(
        id=where,
        question_text=text,
        question_audio=audio,
        answer_text=text,
        answer_audio=audio,
        speaker=speaker,
        tasks=BOTH,
    )


# ---- LibriSpeech


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Two speakers of dev-clean; folders are made in an order that isn't theirs."""
    root = tmp_path / "LibriSpeech" / "dev-clean"
    for key in ("84-121123-0001", "84-121123-0000", "174-50561-0000"):
        speaker, chapter, _ = key.split("-")
        tone_file(root / speaker / chapter / f"{key}.flac")
    text_file(
        root / "84" / "121123" / "84-121123.trans.txt",
        "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS THAN FIVE MINUTES\n",
    )
    text_file(root / "174" / "50561" / "174-50561.trans.txt", "174-50561-0000 FORGOTTEN TOO\n")
    text_file(root.parent / "SPEAKERS.TXT", "; not a transcript\n")
    return root


def test_librispeech(librispeech: Path) -> None:
    chapter = librispeech / "84" / "121123"
    rows = good_rows("librispeech", librispeech)
    assert rows == [
        utterance(
            "dev-clean:174/50561/174-50561-0000",
            "FORGOTTEN TOO",
            librispeech / "174" / "50561" / "174-50561-0000.flac",
            "174",
        ),
        utterance("dev-clean:84/121123/84-121123-0000", "GO DO YOU HEAR", chapter / "84-121123-0000.flac", "84"),
        utterance(
            "dev-clean:84/121123/84-121123-0001", "BUT IN LESS THAN FIVE MINUTES", chapter / "84-121123-0001.flac", "84"
        ),
    ]
    assert all(is_heard(row.question_audio) for row in rows)


def test_librispeech_from_above_and_in_lower_case(librispeech: Path) -> None:
    rows = good_rows("librispeech", librispeech.parent, lowercase=True)
    assert [row.question_text for row in rows] == ["forgotten too", "go do you hear", "but in less than five minutes"]
    assert rows[0].id == "LibriSpeech:dev-clean/174/50561/174-50561-0000"


def test_librispeech_names_what_is_missing(librispeech: Path) -> None:
    chapter = librispeech / "84" / "121123"
    (chapter / "84-121123-0000.flac").unlink()
    tone_file(chapter / "84-121123-0002.flac")
    with (chapter / "84-121123.trans.txt").open("ab") as file:
        file.write("84-121123-0003 GRÜSSE\n".encode("latin-1"))
        file.write(b"84-121123-0004\n\n")
    said = reasons(rows_of("librispeech", librispeech))
    begin = "dev-clean:84/121123/84-121123-000"
    assert said == [
        "dev-clean:174/50561/174-50561-0000",
        f"{begin}0: sound file '84/121123/84-121123-0000.flac' doesn't exist",
        f"{begin}1",
        f"{begin}2: no line of 84-121123.trans.txt names it",
        f"{begin}3: 84-121123.trans.txt:3 is not UTF-8 text",
        f"{begin}4: 84-121123.trans.txt:4 holds no text after '84-121123-0004'",
    ]


# ---- LibriTTS


def test_libritts(tmp_path: Path) -> None:
    root = tmp_path / "train-clean-100"
    chapter = root / "103" / "1241"
    for number in ("000000_000001", "000002_000000", "000003_000000"):
        tone_file(chapter / f"103_1241_{number}.wav")
    text_file(chapter / "103_1241_000000_000001.normalized.txt", "matthew cuthbert is twenty.\n")
    text_file(chapter / "103_1241_000000_000001.original.txt", "Matthew Cuthbert is 20.")
    text_file(chapter / "103_1241_000002_000000.normalized.txt", " \n")
    text_file(chapter / "103_1241.trans.tsv", "103_1241_000000_000001\tMatthew\tmatthew\n")
    begin = "train-clean-100:103/1241/103_1241_"
    first, empty, missing = rows_of("libritts", root)
    assert first == utterance(
        f"{begin}000000_000001", "matthew cuthbert is twenty.", chapter / "103_1241_000000_000001.wav", "103"
    )
    assert reasons([empty, missing]) == [
        f"{begin}000002_000000: its transcript is empty",
        f"{begin}000003_000000: transcript '103_1241_000003_000000.normalized.txt' doesn't exist",
    ]
    original = rows_of("libritts", root, original=True)[0]
    assert isinstance(original, Row)
    assert original.answer_text == "Matthew Cuthbert is 20."


# ---- MLS


def test_mls(tmp_path: Path) -> None:
    root = tmp_path / "mls_german"
    for split, keys in (("dev", ["10148_10119_000000"]), ("train", ["252_1_000002", "252_1_000001"])):
        for key in keys:
            speaker, book, _ = key.split("_")
            tone_file(root / split / "audio" / speaker / book / f"{key}.flac")
    (root / "train" / "audio" / "252" / "1" / "252_1_000001.flac").rename(
        root / "train" / "audio" / "252" / "1" / "252_1_000001.opus"
    )
    text_file(root / "dev" / "transcripts.txt", "10148_10119_000000\tdu kamst zu uns über grüne wiesen\n")
    text_file(
        root / "train" / "transcripts.txt", "252_1_000002\tzwei\n252_1_000001\teins\n252_2_000000\tfehlt\n252_2_1\n"
    )
    text_file(root / "train" / "segments.txt", "252_1_000002\thttp://x\t1\t2\n")
    rows = rows_of("mls", root)
    assert rows[0] == utterance(
        "mls_german:dev/audio/10148/10119/10148_10119_000000",
        "du kamst zu uns über grüne wiesen",
        root / "dev" / "audio" / "10148" / "10119" / "10148_10119_000000.flac",
        "10148",
    )
    assert reasons(rows[1:]) == [
        "mls_german:train/audio/252/1/252_1_000002",
        "mls_german:train/audio/252/1/252_1_000001",
        "mls_german:train/audio/252/2/252_2_000000: sound file 'train/audio/252/2/252_2_000000.flac' doesn't exist",
        "mls_german:train/audio/252/2/252_2_1: transcripts.txt:4 holds no text after '252_2_1'",
    ]
    assert isinstance(rows[2], Row)
    assert str(rows[2].question_audio).endswith("252_1_000001.opus")


# ---- VCTK


def test_vctk_092(tmp_path: Path) -> None:
    for speaker, number in (("p225", "001"), ("p225", "002"), ("p315", "001")):
        for mic in ("mic1", "mic2"):
            tone_file(tmp_path / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_{mic}.flac")
    text_file(tmp_path / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    text_file(tmp_path / "txt" / "p225" / "p225_002.txt", "Ask her to bring these things.")
    folder, name = tmp_path / "wav48_silence_trimmed" / "p225", tmp_path.name
    first, second, no_text = rows_of("vctk", tmp_path)
    assert first == utterance(
        f"{name}:wav48_silence_trimmed/p225/p225_001_mic1",
        "Please call Stella.",
        folder / "p225_001_mic1.flac",
        "p225",
    )
    assert isinstance(second, Row)
    assert second.question_text == "Ask her to bring these things."
    assert reasons([no_text]) == [
        f"{name}:wav48_silence_trimmed/p315/p315_001_mic1: transcript 'p315_001.txt' doesn't exist"
    ]
    other = rows_of("vctk", tmp_path, mic="mic2")[0]
    assert isinstance(other, Row)
    assert other.question_audio == folder / "p225_001_mic2.flac"


def test_vctk_080(tmp_path: Path) -> None:
    audio = tone_file(tmp_path / "wav48" / "p376" / "p376_295.wav")
    text_file(tmp_path / "txt" / "p376" / "p376_295.txt", "We will not.")
    assert good_rows("vctk", tmp_path) == [
        utterance(f"{tmp_path.name}:wav48/p376/p376_295", "We will not.", audio, "p376")
    ]


@pytest.mark.parametrize(
    ("kind", "holds"),
    [("librispeech", "trans.txt"), ("libritts", "normalized.txt"), ("mls", "transcripts.txt"), ("vctk", "wav48")],
)
def test_another_folder_is_refused(kind: str, holds: str, tmp_path: Path) -> None:
    tone_file(tmp_path / "other" / "a.wav")
    said = refused(kind, tmp_path)
    assert said.startswith(f"folder '{tmp_path}' holds no ")
    assert holds in said
