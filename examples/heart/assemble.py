"""Put what the stages have learnt into one file of weights, in half precision.

python examples/heart/assemble.py OUT OUT/heart.safetensors --future 14
"""

from __future__ import annotations

import argparse
from pathlib import Path

from anytalk_heart.net import HeartNet, HeartSizes, save
from loop import trained
from train_quantiser import parts_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder of the stages.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--future", type=int, default=14)
    parser.add_argument("--latent-future", type=int, default=0)
    asked = parser.parse_args()
    net = HeartNet(HeartSizes(voice_future=asked.future, latent_future=asked.latent_future))
    stages = {f"decoder-{asked.future}": {"voice": net.voice}, "quantiser": parts_of(net), "ear": {"ear": net.ear}}
    for name, parts in stages.items():
        print(f"{name}: {trained(asked.out, name, parts)} steps")
    save(net, asked.weights)
    print(f"{asked.weights}: {asked.weights.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
