"""The voice `heart` as a package of its own beside anytalk: a codec, a speech decoder, and both trained as a voice."""

from pathlib import Path

import anytalk

VOICE = Path(__file__).resolve().parent / "voice"


@anytalk.hookimpl
def register_codecs() -> list[anytalk.Component]:
    """Offer the codec."""
    return [
        anytalk.Component(
            "heart",
            "anytalk_heart.codec:HeartCodec",
            "one natural voice, 24 kHz, 10 frames a second",
            licence="Apache-2.0",
            rank=20,  # it brings its weights, and is made for CPUs
        )
    ]


@anytalk.hookimpl
def register_output_adapters() -> list[anytalk.Component]:
    """Offer the speech decoder."""
    return [
        anytalk.Component("heart", "anytalk_heart.speaker:HeartSpeaker", "reads phonemes beside any backbone, English")
    ]


@anytalk.hookimpl
def register_synthesizers() -> list[anytalk.Component]:
    """Offer the engine that taught the voice."""
    return [anytalk.Component("hibari", "anytalk_heart.synthesizer:HibariSynthesizer", "hibari-tts' voice, English")]


@anytalk.hookimpl
def register_voices() -> list[anytalk.Component]:
    """Offer the voice, once it is trained."""
    if not VOICE.is_dir():
        return []
    return [anytalk.Component("heart", "anytalk_heart:VOICE", "a natural American woman's voice, English")]
