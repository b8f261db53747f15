"""Read texts of training rows aloud if they have no sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anytalk.data.config import VoiceConfig
from anytalk.errors import AudioError, ConfigError, UnknownNameError, did_you_mean
from anytalk.grid.audio import check_said
from anytalk.grid.tasks import Task
from anytalk.plugins.contracts import Row, Sound, Synthesizer
from anytalk.plugins.registry import Registry


@dataclass(frozen=True)
class Voicing:
    """Chooses the voices that read questions and answers."""

    synthesizer: Synthesizer  # reads the questions
    variants: Sequence[tuple[str, float]]  # (voice, speed) of the questions, used in rotation
    answer_voice: str  # the voice of all answers
    answer_synthesizer: Synthesizer | None = None  # reads the answers; None: `synthesizer` does

    @property
    def answerer(self) -> Synthesizer:
        """Return the synthesizer of the answers."""
        return self.answer_synthesizer or self.synthesizer


def read_aloud(engine: Synthesizer, text: str, name: str, voice: str, speed: float = 1.0) -> np.ndarray:
    """Read a text aloud; return samples (N,) float32 at the synthesizer's rate.

    Raises:
        AudioError: the text is blank, or the sound can't be this text.
    """
    if not text.strip():
        raise AudioError(f"{name}: there is no text to read aloud", "give text, or leave the field out")
    samples = np.asarray(engine.speak(text, voice, speed), dtype=np.float32)
    check_said(samples, len(samples) / engine.sample_rate_hz, text, name)
    return samples


def _sound(engine: Synthesizer, text: str, name: str, voice: str, speed: float = 1.0) -> Sound:
    samples = read_aloud(engine, text, name, voice, speed)
    return Sound(name=f"{name} ({voice})", samples=samples, sample_rate_hz=engine.sample_rate_hz)


def choose_voices(
    synthesizer: Synthesizer,
    question_voices: Sequence[str] | None = None,
    question_speeds: Sequence[float] = (1.0,),
    answer_voice: str | None = None,
    answer_synthesizer: Synthesizer | None = None,
) -> Voicing:
    """Choose the voices of questions and answers.

    Args:
        question_voices: Voices of the questions; None: all of the synthesizer's.
        answer_voice: The voice of all answers; None: the first voice of their synthesizer.
        answer_synthesizer: Reads the answers; None: `synthesizer` does.

    Raises:
        UnknownNameError: a voice that its synthesizer doesn't have.
        ConfigError: no voice or no speed.
    """
    known, answering = synthesizer.voices, (answer_synthesizer or synthesizer).voices
    voices = known if question_voices is None else question_voices
    for voice, those in [*((v, known) for v in voices), *([(answer_voice, answering)] if answer_voice else [])]:
        if voice not in those:
            raise UnknownNameError(
                f"unknown voice '{voice}'{did_you_mean(voice, those)}", f"voices: {', '.join(those)}"
            )
    if not voices or not question_speeds:
        raise ConfigError("no voice or no speed was given for the questions", "give at least one of each")
    variants = [(voice, speed) for voice in voices for speed in question_speeds]
    return Voicing(synthesizer, variants, answer_voice or answering[0], answer_synthesizer)


def make_voicing(config: VoiceConfig, registry: Registry, speakers: Sequence[str] = ()) -> Voicing:
    """Build the synthesizers and check the voices.

    Args:
        speakers: Voices that the talker has an embedding for; empty accepts any voice.

    Raises:
        UnknownNameError: a synthesizer or a voice that doesn't exist.
        ConfigError: no voice or no speed, or an answer voice that the talker has no embedding for.
    """
    synthesizer: Synthesizer = registry.build("synthesizer", config.synthesizer)
    answerer = None if config.answer_synthesizer is None else registry.build("synthesizer", config.answer_synthesizer)
    voicing = choose_voices(synthesizer, config.question_voices, config.question_speeds, config.answer_voice, answerer)
    if speakers and voicing.answer_voice not in speakers:
        raise ConfigError(
            f"the answers would be read by '{voicing.answer_voice}', a voice that the talker has no embedding for"
            f"{did_you_mean(voicing.answer_voice, list(speakers))}",
            f"set voice.answer_voice in data.yaml; voices of the talker: {', '.join(speakers)}",
        )
    return voicing


def voice_row(row: Row, number: int, tasks: Sequence[Task], voicing: Voicing) -> Row:
    """Add sound to a row where its tasks need some and it has none.

    Turns of the history that have only text keep only text.

    Args:
        row: A row without codes of another codec.
        number: The row's number in its source: questions take the voices and speeds in rotation.

    Raises:
        AudioError: a text that the synthesizer can't read aloud.
    """
    if row.question_audio is None and row.question_text is not None and any(t.speech_in for t in tasks):
        voice, speed = voicing.variants[number % len(voicing.variants)]
        sound = _sound(voicing.synthesizer, row.question_text, f"{row.id}, question", voice, speed)
        row = replace(row, question_audio=sound)
    has_answer = row.answer_audio is not None or row.answer_codes is not None
    if not has_answer and row.answer_text is not None and any(t.audio_out for t in tasks):
        voice = voicing.answer_voice
        sound = _sound(voicing.answerer, row.answer_text, f"{row.id}, answer", voice)
        row = replace(row, answer_audio=sound, speaker=voice)
    return row
