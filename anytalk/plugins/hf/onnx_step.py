"""Runs single decoding steps in ONNX Runtime with weights of 4 bits; prompts are read with 8 bits, which is faster.

A step reads all weights once and does little with them, so half the bytes take about half the time. A prompt is bound
by arithmetic, where ``int8`` is ahead. So both are kept, which takes half as much memory again as ``int8`` alone.

Letters: B batch, D width, K key and value heads, w head width, M steps that the cache has room for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytalk.kernels import made_before
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import BackboneStates, Peaks
from anytalk.plugins.hf.four_bits import quantise
from anytalk.plugins.hf.lean import LeanDecoder
from anytalk.plugins.hf.onnx_graph import Layer, Matrix, step_graph
from anytalk.plugins.optional import require

_WHOLE_HEADS = 16
"""``GroupQueryAttention`` rotates heads whose width is a multiple of this."""


class OnnxDecoder(LeanDecoder):
    """A lean decoder whose single steps run as one ONNX graph with 4-bit weights.

    Args:
        decoder: See :class:`LeanDecoder`.
        peaks: See :class:`LeanDecoder`; only prompts need them.

    Raises:
        ConfigError: onnx or onnxruntime isn't installed.
    """

    def __init__(self, decoder: Any, peaks: Peaks | None = None) -> None:
        require("arithmetic 'int4'", "int4", "onnx", "onnxruntime")
        super().__init__(decoder, "int8", peaks)
        self.memory_dtype = torch.float32  # the attention of ONNX Runtime has no bfloat16
        self._turned = (torch.empty(0), torch.empty(0))
        self._step: _Step | None = None
        if self.head_width % _WHOLE_HEADS == 0:
            self._step = _Step(decoder, self.num_heads, self.group, self.head_width)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> BackboneStates:
        """Run like :class:`LeanDecoder`."""
        if self._step is None or cache is None or hidden.shape[1] != 1 or not cache.length:
            return super().forward(hidden, cache)
        with torch.inference_mode():
            cache.make_room(1)
            rows = cache.rows
            positions = rows.positions(1).expand(len(rows.lengths), 1)
            states = self._step(hidden, cache, positions, self._halves(int(positions.max()) + 1, hidden))
        cache.advance(1)
        return states

    def _halves(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of at least the first `count` positions for one half of a head, (P,w/2) each."""
        if len(self._turned[0]) < count:
            half = self.head_width // 2
            cos, sin = self.angles(count, like)
            # The sines of the second half are positive, see `angles`.
            self._turned = cos[:, 0, :half].contiguous(), sin[:, 0, half:].contiguous()
        return self._turned


class _Step:
    """Holds the session, and binds it to a cache's memory.

    Args:
        decoder: A transformers decoder; see :class:`LeanDecoder`.
        num_heads: Heads of keys and values.
        group: Heads of queries for each of them.
        head_width: w.
    """

    def __init__(self, decoder: Any, num_heads: int, group: int, head_width: int) -> None:
        import onnxruntime

        layers = [_layer(layer) for layer in decoder.layers]
        eps = float(decoder.norm.variance_epsilon)
        graph = step_graph(layers, decoder.norm.weight.detach().clone(), eps, num_heads, group, head_width)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # After a step its threads must leave the cores to torch's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        # The session reads these weights where they are, so it mustn't outlive them.
        self._weights = {name: tensor.numpy() for name, tensor in graph.weights.items()}
        options.add_external_initializers(list(self._weights), [value(array) for array in self._weights.values()])
        self._session = onnxruntime.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])
        self._num_layers, self._width = len(layers), len(decoder.norm.weight)

    def __call__(
        self, hidden: Tensor, cache: KeyValueCache, positions: Tensor, turns: tuple[Tensor, Tensor]
    ) -> BackboneStates:
        """Compute the states of one step, (B,1,D) each, and write its keys and values into the cache.

        Args:
            hidden: (B,1,D) float32.
            cache: With room for the step; it isn't advanced.
            positions: (B,1) int64.
            turns: Cosines and sines, (P,w/2) each.
        """
        lengths, binding = cache.rows.lengths, self._session.io_binding()
        bound = {
            "hidden": hidden.contiguous(),
            "past": torch.tensor(lengths, dtype=torch.int32),
            "longest": torch.tensor(max(lengths) + 1, dtype=torch.int32),
            "positions": positions.contiguous(),
            "cos": turns[0],
            "sin": turns[1],
        }
        states = BackboneStates(torch.empty_like(bound["hidden"]), torch.empty_like(bound["hidden"]))
        for name, tensor in bound.items():
            kind = _KINDS[tensor.dtype]
            binding.bind_input(name, "cpu", 0, kind, list(tensor.shape), tensor.data_ptr())
        for number, memory in enumerate(cache.layers.values()):
            shape = [len(lengths), *memory.shape[2:]]  # the first rows of memory that may have room for more
            for name, held in (("keys", memory[0]), ("values", memory[1])):
                place = held.data_ptr()
                binding.bind_input(f"{name}.{number}", "cpu", 0, np.float32, shape, place)
                binding.bind_output(f"new_{name}.{number}", "cpu", 0, np.float32, shape, place)
        for name, made in (("states", states.pre_norm), ("normed", states.normed)):
            binding.bind_output(name, "cpu", 0, np.float32, list(made.shape), made.data_ptr())
        self._session.run_with_iobinding(binding)
        return states


_KINDS = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int64}


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        qkv=_matrix(attention.q_proj, attention.k_proj, attention.v_proj),
        out=_matrix(attention.o_proj),
        gate_up=(_matrix(mlp.gate_proj), _matrix(mlp.up_proj)),
        down=_matrix(mlp.down_proj),
        norm_1=layer.input_layernorm.weight.detach().clone(),
        norm_2=layer.post_attention_layernorm.weight.detach().clone(),
    )


def _matrix(*linears: Any) -> Matrix:
    """Quantise linear layers of the same input as one matrix, with their outputs in order."""
    made = made_before(lambda: quantise(torch.cat([linear.weight.detach() for linear in linears])))
    bias = None
    if any(linear.bias is not None for linear in linears):
        likes = [linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias for linear in linears]
        bias = torch.cat([like.detach() for like in likes])
    return Matrix(made, int(linears[0].in_features), bias)
