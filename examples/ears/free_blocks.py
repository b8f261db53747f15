"""Move the last blocks of a talker's Whisper encoder into its input adapter, where training reaches them.

The talker that comes out hears exactly as before. Features have to be prepared again for it, because its encoder ends
earlier.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from anytalk.model.assemble import assemble
from anytalk.model.attach import check_vacant
from anytalk.model.config import TalkerConfig
from anytalk.model.talker import Talker, load_talker, save_talker
from anytalk_adapters.whisper_weights import load_whisper


def freed(config: TalkerConfig, num_blocks: int, frame_dropout: float) -> TalkerConfig:
    """Return the configuration in which the input adapter runs the last blocks, and the encoder only the others.

    Raises:
        SystemExit: The talker has no encoder `whisper`, or an adapter that can't train its blocks.
    """
    encoder, adapter = config.encoder, config.input_adapter
    if encoder is None or adapter is None or encoder.name != "whisper" or adapter.name not in {"letters", "ctc"}:
        raise SystemExit("give a talker with the speech encoder 'whisper' and the input adapter 'letters' or 'ctc'")
    model = encoder.options["model"]
    left = len(load_whisper(model).encoder.blocks) - num_blocks
    data = config.model_dump()
    data["encoder"]["options"]["num_blocks"] = left
    data["input_adapter"]["options"] |= {
        "whisper_blocks": num_blocks,
        "whisper": model,
        "frame_dropout": frame_dropout,
    }
    return config.model_validate(data | {"weights": None})


def main() -> None:
    """Write the other talker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("talker", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", type=int, default=3, help="How many blocks are trained from now on.")
    # Hidden frames are new to these blocks, so fewer of them than the adapter alone was trained with.
    parser.add_argument("--frame-dropout", type=float, default=0.05, help="Share of frames hidden from now on.")
    arguments = parser.parse_args()
    check_vacant(arguments.out, overwrite=False)
    old = load_talker(arguments.talker, with_encoder=False)
    config = freed(old.config, arguments.blocks, arguments.frame_dropout)
    model = assemble(config, old.registry, with_encoder=False, backbone=old.model.backbone)
    # All but the blocks themselves come from the old talker; these are still Whisper's own.
    for name, part in old.model.parts().items():
        if name != "backbone":
            model.parts()[name].load_state_dict(part.state_dict(), strict=name != "input_adapter")
    talker = Talker(config, model, old.registry, arguments.talker, old.device)
    partial = arguments.out.with_name(arguments.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_talker(talker, partial, trained=set(old.model.parts()) - {"backbone"})
    partial.rename(arguments.out)  # so a folder that exists is complete


if __name__ == "__main__":
    main()
