"""Sound to learn from: files in a folder or a manifest, and crops that are a function of seed and step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytalk.errors import AudioError, DataError
from anytalk.grid.audio import read_wave, resample

MIN_GAIN, MAX_GAIN = 0.5, 1.1


@dataclass(frozen=True)
class Clip:
    """One sound file.

    Attributes:
        path: Where it lies.
        text: What is said, or None.
        num_samples: At its own rate.
        sample_rate_hz: Its own rate.
    """

    path: Path
    text: str | None
    num_samples: int
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate_hz

    def read(self, sample_rate_hz: int) -> np.ndarray:
        """(N,) float32 at another rate; AudioError as :func:`anytalk.grid.audio.read_wave`."""
        return read_wave(self.path, sample_rate_hz)


def find_clips(data: Path, field: str, text_field: str) -> list[Clip]:
    """The sounds of a folder (every ``.wav`` in it, sorted) or of a manifest (JSON lines, in order).

    Args:
        data: Folder or manifest.
        field: The manifest's field with a path, relative to the manifest; rows without it are left out.
        text_field: Its field with what is said.

    Raises:
        DataError: no such thing, a line that is no JSON object, or no sound at all.
        AudioError: a file that is missing, can't be read or is empty.
    """
    if data.is_dir():
        named: list[tuple[Path, str | None]] = [(path, None) for path in sorted(data.rglob("*.wav"))]
        nothing = "give a folder of wav files, or a manifest.jsonl"
    elif data.is_file():
        named = _named_in(data, field, text_field)
        nothing = f"which field holds the paths of sounds? --field NAME; now '{field}'"
    else:
        raise DataError(f"'{data}' doesn't exist", "give a folder of wav files, or a manifest.jsonl")
    if not named:
        raise DataError(f"'{data}' names no sound", nothing)
    return [_measured(path, text) for path, text in named]


def _named_in(manifest: Path, field: str, text_field: str) -> list[tuple[Path, str | None]]:
    named: list[tuple[Path, str | None]] = []
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{manifest}' can't be read as a manifest: {error}", "expected JSON lines in UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"'{manifest}:{number}' is no JSON object", "expected one object per line")
        path, text = row.get(field), row.get(text_field)
        if path is not None and not isinstance(path, str):
            raise DataError(f"'{manifest}:{number}': '{field}' is {path!r}", "expected the path of a sound file")
        if path:
            named.append((manifest.parent / path, text if isinstance(text, str) and text.strip() else None))
    return named


def _measured(path: Path, text: str | None) -> Clip:
    import soundfile

    if not path.is_file():
        raise AudioError(f"'{path}' doesn't exist", "paths of a manifest are relative to it")
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"'{path}' is not a sound file that can be read: {' '.join(str(error).split())}",
            "expected wav, flac, ogg or mp3; remove it, or write it again",
        ) from None
    if not info.frames:
        raise AudioError(f"'{path}' holds no samples", "remove it, or record it again")
    return Clip(path, text, int(info.frames), int(info.samplerate))


def hold_out(clips: Sequence[Clip], count: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """(to train on, held out): `count` random clips, those with a text first, never trained on; order is kept.

    Raises:
        DataError: nothing would be left to train on.
    """
    if count >= len(clips):
        raise DataError(
            f"{count} of {len(clips)} sounds held out leave none to train on", f"--held-out {len(clips) - 1} at most"
        )
    order = np.random.default_rng((seed, 1)).permutation(len(clips))
    chosen = set(sorted(order.tolist(), key=lambda i: clips[i].text is None)[:count])
    return [c for i, c in enumerate(clips) if i not in chosen], [c for i, c in enumerate(clips) if i in chosen]


class Crops:
    """Batches of crops: step n of a seed always hears the same, so resuming needs no state of a loader.

    Args:
        clips: What to crop; longer ones come more often, every second of sound equally.
        sample_rate_hz: Of the crops; files of another rate are resampled.
        num_samples: Of a crop; shorter sound is padded with silence.
        batch: Crops per step.
        seed: Of the choice.
    """

    def __init__(self, clips: Sequence[Clip], sample_rate_hz: int, num_samples: int, batch: int, seed: int) -> None:
        self.clips = list(clips)
        self.sample_rate_hz, self.num_samples, self.batch, self.seed = sample_rate_hz, num_samples, batch, seed
        self._ends_s = np.cumsum([clip.duration_s for clip in self.clips])

    @property
    def total_s(self) -> float:
        """Seconds of sound."""
        return float(self._ends_s[-1])

    @property
    def digest(self) -> str:
        """Names and lengths in hex: a checkpoint of other data is refused by it."""
        told = [[c.path.name, c.num_samples, c.sample_rate_hz] for c in self.clips]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def at(self, step: int) -> np.ndarray:
        """(batch, num_samples) float32 of a step, each crop at a gain of 0.5 to 1.1.

        Raises:
            AudioError: a file that can't be read any more.
        """
        random = np.random.default_rng((self.seed, step))
        return np.stack([self._crop(random) for _ in range(self.batch)])

    def _crop(self, random: np.random.Generator) -> np.ndarray:
        point = random.random() * self.total_s
        clip = self.clips[min(int(np.searchsorted(self._ends_s, point, side="right")), len(self.clips) - 1)]
        wanted = -(-self.num_samples * clip.sample_rate_hz // self.sample_rate_hz)
        start = int(random.random() * max(0, clip.num_samples - wanted + 1))
        gain = np.float32(random.uniform(MIN_GAIN, MAX_GAIN))
        wave = resample(_read_part(clip, start, wanted), clip.sample_rate_hz, self.sample_rate_hz)
        wave = wave[: self.num_samples] * gain
        return np.pad(wave, (0, self.num_samples - len(wave)))


def _read_part(clip: Clip, start: int, count: int) -> np.ndarray:
    """(n,) float32 mono, n <= count, at the clip's own rate."""
    import soundfile

    try:
        samples, _ = soundfile.read(str(clip.path), count, start, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"'{clip.path}' can't be read any more: {' '.join(str(error).split())}", "was it moved while training?"
        ) from None
    wave: np.ndarray = samples.mean(axis=1)
    if not np.isfinite(wave).all():
        raise AudioError(f"'{clip.path}' holds samples that are not finite numbers", "write it again as 16-bit PCM")
    return wave
