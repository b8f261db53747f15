"""Take the future from a stack of convolutions without training: least squares, one layer after the other.

Each convolution is fitted anew, so that from what it still sees, in a stack that is cut below it, it says what the
uncut one says. Dropping the taps that are too late costs nearly all of the sound (Distill-MOS 4.3 to 2); this costs
little.
"""

from __future__ import annotations

import torch
from anytalk_heart.layers import KERNEL, Block, FutureConv
from anytalk_heart.net import Stack
from torch import Tensor
from torch.nn import functional as F

RIDGE = 1e-4
"""Share of the mean power that is added to each tap's own: what is never heard stays small."""


@torch.no_grad()
def cut_by_least_squares(whole: Stack, cut: Stack, pieces: list[Tensor]) -> None:
    """Fit the convolutions of `cut`, whose other weights become those of `whole`.

    Args:
        whole: The stack that sees far ahead.
        cut: The same sizes, seeing less.
        pieces: (1,W,T) inputs to fit on, whole utterances.
    """
    cut.load_state_dict(whole.state_dict())
    true = [whole.into(piece, {}, True) for piece in pieces]
    _fit(cut.into, pieces, true)
    made = [cut.into(piece, {}, True) for piece in pieces]
    for block, short in zip(whole.blocks, cut.blocks, strict=True):
        assert isinstance(block, Block)
        assert isinstance(short, Block)
        _fit(short.mix, made, [block.mix(hidden, {}, True) for hidden in true])
        true = [block(hidden, {}, True) for hidden in true]
        made = [short(hidden, {}, True) for hidden in made]


def _fit(layer: FutureConv, seen: list[Tensor], wanted: list[Tensor]) -> None:
    """Weights and bias of a convolution, so that from `seen` it makes `wanted`, as nearly as it can."""
    windows = torch.cat(
        [F.pad(one, (KERNEL - 1 - layer.future, layer.future)).unfold(-1, KERNEL, 1)[0] for one in seen], 1
    )  # (W,T,7)
    targets = torch.cat([one[0] for one in wanted], 1)  # (W',T)
    if layer.conv.groups == 1:
        found = _solved(windows.permute(1, 0, 2).flatten(1)[None], targets.T[None])[0]
        layer.conv.weight.copy_(found[:-1].T.reshape(layer.conv.weight.shape))
        layer.conv.bias.copy_(found[-1])
    else:
        found = _solved(windows, targets[..., None])[..., 0]
        layer.conv.weight.copy_(found[:, None, :-1])
        layer.conv.bias.copy_(found[:, -1])


def _solved(inputs: Tensor, targets: Tensor) -> Tensor:
    """(G,T,n), (G,T,m) -> (G, n + 1, m): least squares with a constant."""
    inputs = F.pad(inputs, (0, 1), value=1.0).double()
    squares = inputs.mT @ inputs
    power = squares.diagonal(dim1=-2, dim2=-1).mean(-1)
    squares = squares + RIDGE * power[:, None, None] * torch.eye(squares.shape[-1], dtype=squares.dtype)
    return torch.linalg.solve(squares, inputs.mT @ targets.double()).float()
