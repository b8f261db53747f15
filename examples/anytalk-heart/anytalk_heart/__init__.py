"""The codec `heart`, as a package of its own beside anytalk."""

import anytalk


@anytalk.hookimpl
def register_codecs() -> list[anytalk.Component]:
    """Offer the codec."""
    return [
        anytalk.Component("heart", "anytalk_heart.codec:HeartCodec", "one natural voice, 24 kHz, 10 frames a second")
    ]
