"""Reads corpora of read speech in their published folders: LibriSpeech, LibriTTS, Multilingual LibriSpeech, VCTK.

Each utterance serves the tasks A1T1 (transcribe it) and T1A1 (read its text aloud).
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from anytalk import plugins
from anytalk.errors import DataError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BadRow, DataSource, Row

TASKS = ("A1T1", "T1A1")


class CorpusOptions(plugins.Options):
    """Options of every corpus."""

    path: str = Field(description="The corpus, one of its subsets, or a folder inside.")
    lowercase: bool = Field(
        False, description="Write transcripts in lower case (those of LibriSpeech are published in upper case)."
    )


class CorpusSource(DataSource):
    """Walks a folder in sorted order; a subclass knows where its corpus keeps transcripts."""

    licence = "of the data"
    holds: ClassVar[str]
    """What a folder of this corpus contains, for messages."""

    def __init__(self, root: Path, options: Any) -> None:
        self.root, self.options = root, options

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the source (DataError: the folder doesn't exist, or isn't of this corpus)."""
        root = Path(options.path).expanduser().absolute()
        if not root.is_dir():
            raise DataError(f"folder '{options.path}' doesn't exist", f"give the folder that holds {cls.holds}")
        # The first utterance shows whether this is the corpus, without a walk through all of it.
        source = cls(root, options)
        if next(source.utterances(), None) is None:
            raise DataError(f"folder '{options.path}' holds no {cls.holds}", "give the folder as it was unpacked")
        return source

    @abstractmethod
    def utterances(self) -> Iterator[tuple[Path, str | DataError, str]]:
        """Yield each sound file, its transcript or what is wrong with it, and its speaker, in a fixed order."""

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield a row per utterance; its id is the corpus's name and the utterance's path in it."""
        for audio, text, speaker in self.utterances():
            where = f"{self.root.name}:{audio.relative_to(self.root).with_suffix('').as_posix()}"
            if isinstance(text, DataError):
                yield BadRow(id=where, reason=f"{where}: {text.message}", hint=text.hint)
            elif not text.strip():
                yield BadRow(id=where, reason=f"{where}: its transcript is empty", hint="leave the utterance out")
            elif not audio.is_file():
                reason = f"{where}: sound file '{audio.relative_to(self.root)}' doesn't exist"
                yield BadRow(id=where, reason=reason, hint="unpack the corpus again")
            else:
                said = text.strip().lower() if self.options.lowercase else text.strip()
                yield Row(
                    id=where,
                    question_text=said,
                    question_audio=audio,
                    answer_text=said,
                    answer_audio=audio,
                    speaker=speaker,
                    tasks=TASKS,
                )


class LibriSpeechSource(CorpusSource):
    """Reads ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt``, with lines ``ID TEXT``, and ``ID.flac`` (openslr.org/12)."""

    licence = "CC-BY-4.0 (the corpus)"
    holds = "*.trans.txt files with their .flac files"

    class Options(CorpusOptions):
        """This corpus has no options of its own."""

    def utterances(self) -> Iterator[tuple[Path, str | DataError, str]]:
        """Yield each utterance; sound that no line names is reported, too."""
        for folder, names in _walk(self.root):
            transcripts = [name for name in names if name.endswith(".trans.txt")]
            texts = {key: text for name in transcripts for key, text in _lines(folder / name, " ")}
            if transcripts:
                sounds = {name.removesuffix(".flac") for name in names if name.endswith(".flac")}
                for key in sorted(sounds | texts.keys()):
                    text = texts.get(key, DataError(f"no line of {transcripts[0]} names it", "unpack the corpus again"))
                    yield folder / f"{key}.flac", text, key.partition("-")[0]


class LibriTTSSource(CorpusSource):
    """Reads ``SPEAKER/CHAPTER/ID.wav`` with ``ID.normalized.txt`` and ``ID.original.txt`` (openslr.org/60)."""

    licence = "CC-BY-4.0 (the corpus)"
    holds = "SPEAKER/CHAPTER/*.wav with their .normalized.txt files"

    class Options(CorpusOptions):
        original: bool = Field(False, description="Take .original.txt (numbers as digits) instead of .normalized.txt.")

    def utterances(self) -> Iterator[tuple[Path, str | DataError, str]]:
        suffix = "original" if self.options.original else "normalized"
        for folder, names in _walk(self.root):
            # Folders without any transcript aren't chapters.
            if any(name.endswith((".normalized.txt", ".original.txt")) for name in names):
                for name in names:
                    if name.endswith(".wav"):
                        key = name.removesuffix(".wav")
                        yield folder / name, _text(folder / f"{key}.{suffix}.txt"), key.partition("_")[0]


class MlsSource(CorpusSource):
    """Reads ``transcripts.txt``, with lines ``ID<tab>TEXT``, and ``audio/SPEAKER/BOOK/ID.flac`` (openslr.org/94).

    The release in original quality has ``.opus`` files instead, which are found, too.
    """

    licence = "CC-BY-4.0 (the corpus)"
    holds = "transcripts.txt beside an audio folder"

    class Options(CorpusOptions):
        """This corpus has no options of its own."""

    def utterances(self) -> Iterator[tuple[Path, str | DataError, str]]:
        """Yield each utterance in the order of the transcripts, which is the publisher's."""
        for folder, names in _walk(self.root):
            if "transcripts.txt" in names:
                for key, text in _lines(folder / "transcripts.txt", "\t"):
                    speaker, _, rest = key.partition("_")
                    audio = folder / "audio" / speaker / rest.partition("_")[0] / f"{key}.flac"
                    opus = audio.with_suffix(".opus")
                    yield opus if not audio.is_file() and opus.is_file() else audio, text, speaker


class VctkSource(CorpusSource):
    """Reads ``wav48_silence_trimmed/pXXX/ID_mic1.flac`` (0.92) or ``wav48/pXXX/ID.wav`` (0.80).

    Transcripts are in ``txt/pXXX/ID.txt``. Speaker p315 is published without them, so its utterances are bad rows.
    """

    licence = "CC-BY-4.0 (the corpus)"
    holds = "wav48_silence_trimmed/ or wav48/ beside txt/"

    class Options(CorpusOptions):
        mic: Literal["mic1", "mic2"] = Field("mic1", description="Microphone, of release 0.92.")

    def utterances(self) -> Iterator[tuple[Path, str | DataError, str]]:
        for sounds, ending in (("wav48_silence_trimmed", f"_{self.options.mic}.flac"), ("wav48", ".wav")):
            for folder, names in _walk(self.root / sounds):
                for name in names:
                    if name.endswith(ending):
                        key, speaker = name.removesuffix(ending), folder.name
                        yield folder / name, _text(self.root / "txt" / speaker / f"{key}.txt"), speaker


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders with the names of their files, both sorted; each folder is read only when it is due."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()  # in place: os.walk goes on with this list
        yield Path(folder), sorted(names)


def _lines(path: Path, separator: str) -> Iterator[tuple[str, str | DataError]]:
    """Yield each utterance's name, and its text or what is wrong with it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            here = f"{path.name}:{number}"
            try:
                key, _, text = line.decode("utf-8").strip().partition(separator)
            except UnicodeDecodeError:
                key, _, _ = line.decode("utf-8", "replace").strip().partition(separator)
                yield key, DataError(f"{here} is not UTF-8 text", "save it as UTF-8")
                continue
            if key:
                yield key, text or DataError(f"{here} holds no text after '{key}'", "leave the utterance out")


def _text(path: Path) -> str | DataError:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return DataError(f"transcript '{path.name}' doesn't exist", "leave the utterance out, or unpack it again")
    except (OSError, UnicodeDecodeError) as error:
        return DataError(f"transcript '{path.name}' can't be read: {error}", "save it as UTF-8")
