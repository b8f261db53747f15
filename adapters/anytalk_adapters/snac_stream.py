"""Decodes SNAC codes piece by piece, exactly: each layer keeps the inputs that its next outputs need.

Decoding a window of codes again for each new frame (``plugins.codec_stream``) does most of its work several times,
because the window has 3 frames of past and 3 of future around the new one. Here each layer computes each output once.
The time per frame doesn't depend on how many frames come at once, and only as much is held back as the layers look
ahead (2.3 frames).

The arithmetic is arranged for a CPU: tensors are time by channels, weight norm is folded into the weights, codebooks
are projected once, and upsampling is one matrix product whose halves overlap. ``tests/test_snac_stream.py`` compares
the result with the plain decoder.

Letters: T positions in time, C channels, s upsampling stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.errors import AudioError
from anytalk.kernels import make_matrix
from anytalk.plugins.codec_stream import check_codes
from anytalk.plugins.contracts import CodecStream
from anytalk_adapters import snac_order
from anytalk_adapters.snac_noise import KEYS_PER_SEED, position_noise

_NOISE_AHEAD = 32
"""Noise is computed in advance for this many pieces of the present size."""
Step = Callable[[Tensor, bool], Tensor]
"""Takes (T,C) and whether nothing follows; returns the outputs (T',C') that are final."""


class SnacWeights:
    """Holds the weights of a SNAC decoder, folded and rearranged; all streams share them.

    Args:
        model: A ``snac.SNAC`` without attention; its weights are copied and not changed.
        noise_seed: Seed of the noise; None adds none.
    """

    @torch.no_grad()
    def __init__(self, model: Any, noise_seed: int | None) -> None:
        self.vq_strides = [int(stride) for stride in model.vq_strides]
        self.num_streams = sum(snac_order.codes_per_frame(self.vq_strides))
        self.codebook_size = int(model.codebook_size)
        # For each codebook (codes, latent width): what each code adds to the latents.
        self.tables = [
            F.linear(q.codebook.weight, q.out_proj.weight[:, :, 0], q.out_proj.bias).clone()
            for q in model.quantizer.quantizers
        ]
        self.layers: list[Callable[[], Step]] = []
        noises = 0
        for layer in model.decoder.model:
            if type(layer).__name__ != "DecoderBlock":
                self.layers.append(_maker(layer))
                continue
            for inner in layer.block:
                if type(inner).__name__ == "NoiseBlock":
                    if noise_seed is not None:
                        matrix = make_matrix("fused", inner.linear.weight[:, :, 0].clone())
                        self.layers.append(_bind(_Noise, matrix, noise_seed * KEYS_PER_SEED + noises))
                    noises += 1
                else:
                    self.layers.append(_maker(inner))

    def latents(self, codes: Tensor) -> Tensor:
        """Return the latents (T, latent width) of codes (1,K,t)."""
        total: Tensor | None = None
        for ids, table, stride in zip(
            snac_order.unflatten(codes, self.vq_strides), self.tables, self.vq_strides, strict=True
        ):
            # A coarse code is held for as many latents as its stride.
            part = table[ids[0]].repeat_interleave(stride, dim=0)
            total = part if total is None else total + part
        assert total is not None
        return total


class SnacStream(CodecStream):
    """Decodes codes as they come; the result equals offline decoding up to rounding."""

    def __init__(self, weights: SnacWeights) -> None:
        self._weights = weights
        self._restart()

    def _restart(self) -> None:
        self._steps = [make() for make in self._weights.layers]
        self._is_empty = True

    def push(self, codes: Tensor) -> Tensor:
        """Decode (1,K,t) frames, t >= 0, and return the (1,n) samples that are final.

        Raises:
            AudioError: The codes have another shape or lie outside the codebook.
        """
        if codes.dim() != 3 or codes.shape[:2] != (1, self._weights.num_streams):
            raise AudioError(
                f"a stream was given codes of shape {tuple(codes.shape)}; expected (1, {self._weights.num_streams}, t)",
                "open one stream for each answer",
            )
        check_codes(codes, self._weights.num_streams, self._weights.codebook_size)
        if codes.shape[2] == 0:
            return torch.zeros((1, 0), device=codes.device)
        self._is_empty = False
        return self._run(self._weights.latents(codes), False)

    def flush(self) -> Tensor:
        """Return the (1,n) samples that were held back, and reset the stream."""
        table = self._weights.tables[0]
        if self._is_empty:
            return table.new_zeros(1, 0)
        tail = self._run(table.new_zeros(0, table.shape[1]), True)
        self._restart()
        return tail

    @torch.no_grad()
    def _run(self, rows: Tensor, is_last: bool) -> Tensor:
        for step in self._steps:
            rows = step(rows, is_last)
        return rows.T


class _Convolution:
    """Applies a convolution that keeps the length, either depthwise or over all channels."""

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int, is_depthwise: bool) -> None:
        taps, channels = weight.shape[0], weight.shape[1]
        self.weight, self.bias, self.dilation, self.is_depthwise = weight, bias, dilation, is_depthwise
        self.reach = (taps - 1) * dilation
        # The plain decoder pads half of the reach on each side: at the start here, at the end in the last call.
        self.pad = bias.new_zeros(self.reach // 2, channels)
        self.kept = self.pad  # the inputs that later outputs need

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        rows = torch.cat([self.kept, rows, self.pad] if is_last else [self.kept, rows])
        count = max(0, rows.shape[0] - self.reach)
        self.kept = rows[count:]
        # One shifted view of the input per tap.
        spans = [rows[first : first + count] for first in range(0, self.reach + 1, self.dilation)]
        if not self.is_depthwise:
            return torch.addmm(self.bias, torch.cat(spans, dim=1), self.weight.flatten(0, 1))
        made = torch.addcmul(self.bias, spans[0], self.weight[0])
        for span, tap in zip(spans[1:], self.weight[1:], strict=True):
            made.addcmul_(span, tap)
        return made


class _Upsampling:
    """Applies a transposed convolution with a kernel of two strides, so that each output depends on two inputs."""

    def __init__(self, matrix: nn.Module, bias: Tensor, stride: int) -> None:
        self.matrix, self.bias, self.stride = matrix, bias, stride
        self.early = -(-stride // 2)  # how many outputs fall into the padding at the start
        self.tail = bias.new_zeros(1, stride, bias.shape[0])  # the last input's second half
        self.skip = self.early

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        channels = self.bias.shape[0]
        if rows.shape[0]:
            halves = self.matrix(rows).view(-1, 2, self.stride, channels)
            # The second half of each input overlaps the first half of the next one.
            later = torch.cat([self.tail, halves[:, 1]])
            self.tail = later[-1:].clone()
            made = (halves[:, 0] + later[:-1]).flatten(0, 1)
        else:
            made = self.bias.new_zeros(0, channels)
        if is_last:
            made = torch.cat([made, self.tail[0, : self.early]])
        skipped = min(self.skip, int(made.shape[0]))
        self.skip -= skipped
        found: Tensor = made[skipped:] + self.bias
        return found


class _Snake:
    """Applies the activation x + sin(alpha x)^2 / alpha, which needs no state."""

    def __init__(self, alpha: Tensor, inverse: Tensor) -> None:
        self.alpha, self.inverse = alpha, inverse

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        wave = rows * self.alpha
        return torch.addcmul(rows, wave.sin_().square_(), self.inverse)


class _Pointwise:
    """Applies a convolution with one tap, which needs no state."""

    def __init__(self, matrix: nn.Module) -> None:
        self.matrix = matrix

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        made: Tensor = self.matrix(rows)
        return made


class _Noise:
    """Adds the noise of absolute positions, scaled by a linear map of the input."""

    def __init__(self, matrix: nn.Module, key: int) -> None:
        self.matrix, self.key, self.position = matrix, key, 0
        self.ahead: Tensor | None = None  # noise of the positions from `position` on, computed in advance

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        count = rows.shape[0]
        if self.ahead is None or self.ahead.shape[0] < count:
            # For a few positions, starting the forty operations takes longer than computing, so many are done at once.
            made = position_noise(self.position, _NOISE_AHEAD * max(count, 1), self.key, rows.device)
            self.ahead = made[:, None].to(rows.dtype)
        noise, self.ahead = self.ahead[:count], self.ahead[count:]
        self.position += count
        return torch.addcmul(rows, self.matrix(rows), noise)


class _Residual:
    """Adds the output of some steps to their input, which is kept until the output is there."""

    def __init__(self, steps: Sequence[Step], waiting: Tensor) -> None:
        self.steps, self.waiting = steps, waiting

    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        self.waiting = torch.cat([self.waiting, rows])
        for step in self.steps:
            rows = step(rows, is_last)
        made = rows.add_(self.waiting[: rows.shape[0]])
        self.waiting = self.waiting[rows.shape[0] :]
        return made


class _Tanh:
    def __call__(self, rows: Tensor, is_last: bool) -> Tensor:
        return rows.tanh()


def _bind(kind: Callable[..., Step], *arguments: Any) -> Callable[[], Step]:
    return lambda: kind(*arguments)


def _maker(layer: Any) -> Callable[[], Step]:
    """Return a function that makes a new step for a layer; the layer's weights are folded and rearranged here, once."""
    kind = type(layer).__name__
    # A module with weight norm is a subclass, with a name of its own, of the module that it normalises.
    if isinstance(layer, nn.Conv1d):
        bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().clone()
        if layer.kernel_size == (1,):
            return _bind(_Pointwise, make_matrix("fused", layer.weight[:, :, 0].detach().clone(), bias))
        is_depthwise = layer.groups == layer.in_channels and layer.groups > 1
        order = (2, 0, 1) if is_depthwise else (2, 1, 0)
        weight = layer.weight.detach().permute(*order).contiguous()  # (taps, C) or (taps, in, out)
        return _bind(
            _Convolution, weight[..., 0].contiguous() if is_depthwise else weight, bias, layer.dilation[0], is_depthwise
        )
    if isinstance(layer, nn.ConvTranspose1d):
        weight = layer.weight.detach()  # (in, out, 2 s)
        bias = weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().clone()
        return _bind(_Upsampling, _matrix(weight.permute(2, 1, 0).flatten(0, 1)), bias, layer.stride[0])
    if kind == "Snake1d":
        alpha = layer.alpha.detach().flatten().clone()
        return _bind(_Snake, alpha, (alpha + 1e-9).reciprocal())
    if kind == "ResidualUnit":
        makers = [_maker(inner) for inner in layer.block]
        waiting = layer.block[0].alpha.detach().new_zeros(0, layer.block[0].alpha.shape[1])
        return lambda: _Residual([make() for make in makers], waiting)
    if isinstance(layer, nn.Tanh):
        return _Tanh
    raise AudioError(f"this SNAC decoder has a layer '{kind}' that can't be streamed", "set stream_context_frames: 3")


def _matrix(weight: Tensor) -> nn.Module:
    """Return the matrix of an upsampling; it is large and multiplies few rows, which packed weights are good for."""
    can_pack = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch._C._has_mkldnn
    return make_matrix("packed" if can_pack else "fused", weight)
