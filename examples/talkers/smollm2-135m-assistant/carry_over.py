"""Let a mouth go on with another codec: what it knows of letters and time stays, its code tables are translated.

    python carry_over.py OLD_MOUTH NEW_MOUTH OLD_SHARDS NEW_SHARDS

Both shard folders hold the same sounds, prepared for a mouth with the old codec and for one with the new codec. Rows of
the embedding and of the heads that belong to a new code become the mean of those of the old codes that stand in the
same place of the same sounds, weighted by how often they do. NEW_MOUTH, just attached, is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from anytalk.errors import AnytalkError, TalkerError
from anytalk.model.talker import load_talker, save_talker

PARTS = {"output_adapter", "heads", "audio_embeddings", "special_tokens"}
RARE = 1e-3
"""Counts that every pair is given, of a code's mean: a code that was never seen becomes the mean of all."""


def coded(folder: Path) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """(source, row id) and codes (K,T) of each row."""
    for path in sorted(folder.glob("*/*.parquet")):
        table = parquet.read_table(path, columns=["id", "answer_codes"])
        for name, codes in zip(table.column("id").to_pylist(), table.column("answer_codes").to_pylist(), strict=True):
            if codes is not None:
                yield (path.parent.name, name), torch.from_numpy(np.asarray(codes)).long()


def meetings(old: Path, new: Path, num_streams: int, num_codes: int) -> Tensor:
    """(K,C,C) float32, how often a new code (first) stands where an old one does.

    Raises:
        TalkerError: the folders have no row in common.
    """
    counts = torch.zeros(num_streams, num_codes, num_codes)
    before = dict(coded(old))
    found = 0
    for key, codes in coded(new):
        theirs = before.get(key)
        if theirs is None or theirs.shape != codes.shape:
            continue
        found += 1
        pairs = codes * num_codes + theirs
        for stream in range(num_streams):
            counts[stream].view(-1).index_add_(0, pairs[stream], torch.ones(pairs.shape[1]))
    if not found:
        raise TalkerError(f"no row of '{new}' is in '{old}'", "prepare the same sources for both mouths")
    print(f"{found} rows; a new code has one old code in its place in at best {likeliest(counts)} of all cases")
    return counts


def likeliest(counts: Tensor) -> str:
    """Per stream, the share of a new code's places that its most frequent old code has."""
    shares = counts.amax(-1).sum(-1) / counts.sum((-1, -2)).clamp(min=1)
    return ", ".join(f"{share:.0%}" for share in shares.tolist())


def translated(tables: Tensor, chances: Tensor) -> Tensor:
    """(K,C+specials,D) rows of old codes -> of new ones; specials stay."""
    num_codes = chances.shape[-1]
    new = tables.clone()
    new[:, :num_codes] = chances @ tables[:, :num_codes]
    return new


@torch.no_grad()
def carry_over(old_mouth: Path, new_mouth: Path, old_shards: Path, new_shards: Path) -> None:
    """Copy, translate, save."""
    old, new = (load_talker(folder, with_encoder=False) for folder in (old_mouth, new_mouth))
    layout = new.model.layout
    counts = meetings(old_shards, new_shards, layout.num_audio_streams, layout.codebook_size)
    counts += RARE * counts.sum(1, keepdim=True) / counts.sum((1, 2), keepdim=True)
    chances = counts / counts.sum(-1, keepdim=True)
    known = old.model.state_dict()
    for name, value in new.model.state_dict().items():
        if name.partition(".")[0] not in PARTS:
            continue
        given = known[name].float()
        if name == "audio_embeddings.weight":
            mixed = translated(given, chances)
            # A mean is smaller than what it is the mean of.
            given = mixed * (given.std(dim=(1, 2), keepdim=True) / mixed.std(dim=(1, 2), keepdim=True))
        elif name == "heads.linear.weight":
            given = translated(given.view(layout.num_audio_streams, -1, given.shape[-1]), chances).view_as(given)
        value.copy_(given)
    save_talker(new, new_mouth, trained=PARTS)


def main() -> None:
    """Parse, carry over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("old_mouth", "new_mouth", "old_shards", "new_shards"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    try:
        carry_over(**vars(arguments))
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
