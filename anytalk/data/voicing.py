"""Reading aloud, for training rows, what is only there as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anytalk.data.config import VoiceConfig
from anytalk.data.voice import VoicePlan, check_plan
from anytalk.errors import AudioError, ConfigError, did_you_mean
from anytalk.grid.tasks import Task
from anytalk.plugins.contracts import Row, Sound, Synthesizer
from anytalk.plugins.registry import Registry


@dataclass(frozen=True)
class Voicing:
    """A synthesizer and who reads what.

    Attributes:
        synthesizer: The engine.
        variants: (voice, speed) of the questions, taken by turns.
        answer_voice: The voice of all answers.
    """

    synthesizer: Synthesizer
    variants: Sequence[tuple[str, float]]
    answer_voice: str


def make_voicing(config: VoiceConfig, registry: Registry, speakers: Sequence[str] = ()) -> Voicing:
    """Build the synthesizer and check the voices.

    Args:
        config: ``voice:`` of data.yaml.
        registry: Where synthesizers are found.
        speakers: Voices that the talker has an embedding for; empty: any will do.

    Raises:
        UnknownNameError: a synthesizer or a voice that isn't there.
        ConfigError: no voice or no speed, or an answer voice that the talker doesn't know.
    """
    synthesizer: Synthesizer = registry.build("synthesizer", config.synthesizer)
    voices = synthesizer.voices if config.question_voices is None else config.question_voices
    plan = VoicePlan(question_voices=voices, question_speeds=config.question_speeds, answer_voice=config.answer_voice)
    check_plan(synthesizer, plan)
    answer_voice = config.answer_voice or synthesizer.voices[0]
    if speakers and answer_voice not in speakers:
        raise ConfigError(
            f"the answers would be read by '{answer_voice}', a voice that the talker has no embedding for"
            f"{did_you_mean(answer_voice, list(speakers))}",
            f"set voice.answer_voice in data.yaml; voices of the talker: {', '.join(speakers)}",
        )
    variants = [(voice, speed) for voice in voices for speed in config.question_speeds]
    return Voicing(synthesizer, variants, answer_voice)


def without_foreign_codes(row: Row, token_format: str) -> Row:
    """The row without codes that another codec made: they are no sound to this talker."""
    if row.answer_codes is None or row.answer_codes.token_format == token_format:
        return row
    return replace(row, answer_codes=None)


def voice_row(row: Row, number: int, tasks: Sequence[Task], voicing: Voicing) -> Row:
    """Give a row the sound that its tasks need and that it lacks; what it has stays.

    Turns before the question that are only text stay text.

    Args:
        row: Without codes of another codec (:func:`without_foreign_codes`).
        number: Its number in its source: questions take voices and speeds by turns.
        tasks: Tasks that it may serve.
        voicing: Who reads.

    Raises:
        AudioError: a text that the synthesizer can't say.
    """
    if row.question_audio is None and row.question_text is not None and any(t.speech_in for t in tasks):
        voice, speed = voicing.variants[number % len(voicing.variants)]
        row = replace(row, question_audio=_read(row.question_text, f"{row.id}, question", voicing, voice, speed))
    has_answer = row.answer_audio is not None or row.answer_codes is not None
    if not has_answer and row.answer_text is not None and any(t.audio_out for t in tasks):
        voice = voicing.answer_voice
        row = replace(row, answer_audio=_read(row.answer_text, f"{row.id}, answer", voicing, voice, 1.0), speaker=voice)
    return row


def _read(text: str, name: str, voicing: Voicing, voice: str, speed: float) -> Sound:
    if not text.strip():
        raise AudioError(f"{name}: there is no text to read aloud", "give text, or leave the field out")
    samples = np.asarray(voicing.synthesizer.speak(text, voice, speed), dtype=np.float32)
    return Sound(name=f"{name} ({voice})", samples=samples, sample_rate_hz=voicing.synthesizer.sample_rate_hz)
