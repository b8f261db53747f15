"""Make the voice folder of what stage 4 has learnt.

python examples/heart/make_voice.py OUT examples/anytalk-heart/anytalk_heart/voice --codec OUT/heart.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import anytalk_heart
from anytalk_heart.codec import HeartCodec
from anytalk_heart.net import load
from anytalk_heart.speaker import HeartSpeaker
from loop import trained
from train_speaker import LAYOUT, SpeakerParts

from anytalk.model.voice_parts import write_voice

BESIDE = Path(anytalk_heart.__file__).resolve().parent.parent
DESCRIPTION = (
    "A natural woman's voice for English, taught by hibari-tts (Apache-2.0), which was distilled from the voice "
    "af_heart of Kokoro-82M."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder of the stages.")
    parser.add_argument("voice", type=Path, help="Where the voice goes.")
    parser.add_argument("--codec", type=Path, required=True, help="The codec's weights, for their fingerprint.")
    parser.add_argument("--letters", action="store_true", help="It was trained with --letters.")
    asked = parser.parse_args()
    pronouncer: Literal["letters", "english"] = "letters" if asked.letters else "english"
    parts = SpeakerParts(HeartSpeaker.Options(pronouncer=pronouncer))
    print(f"speaker: {trained(asked.out, 'speaker', {'parts': parts})} steps")
    tensors = {f"output_adapter.{name}": value for name, value in parts.output_adapter.state_dict().items()}
    tensors |= {"audio_embeddings.weight": parts.audio_embeddings.weight, "special_tokens.audio": parts.specials}
    options = parts.output_adapter.options
    settings = {
        "name": "heart",
        "description": DESCRIPTION,
        "language": "en",
        "licence": "Apache-2.0",
        "output_adapter": {"name": "heart", "options": options.model_dump()},
        "heads": {"name": "shared", "options": {"tied": True}},
        "codec": {"name": "heart", "options": HeartCodec.Options().model_dump()},
        "codec_fingerprint": HeartCodec(load(asked.codec)).fingerprint,
        "grid": {
            "pattern": parts.pattern.name,
            "text_lead": parts.pattern.text_lead,
            "audio_special_slots": LAYOUT.audio_special_slots,
            "codec_streams": LAYOUT.num_audio_streams,
            "codebook_size": LAYOUT.codebook_size,
        },
    }
    half = {name: value.detach().half().contiguous() for name, value in tensors.items()}
    files = {Path(name): BESIDE / name for name in ("LICENSE", "NOTICE")}
    card = (anytalk_heart.VOICE / "README.md").read_text(encoding="utf-8")
    voice = write_voice(asked.voice, settings, half, files)
    (asked.voice / "README.md").write_text(card, encoding="utf-8")  # written by hand: renew its figures
    print(f"{asked.voice}: {voice.weights.num_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
