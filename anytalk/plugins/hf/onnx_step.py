"""Runs single decoding steps in ONNX Runtime with weights of 4 bits; prompts are read with 8 bits, which is faster.

A step reads all weights once and does little with them, so half the bytes take about half the time. A prompt is bound
by arithmetic, where ``int8`` is ahead. So both are kept, which takes twice the memory of ``int8`` alone.

Letters: B batch, D width, H key and value heads, w head width, M steps that the cache has room for.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytalk.kernels import made_before
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import BackboneStates, Peaks
from anytalk.plugins.hf.four_bits import quantise
from anytalk.plugins.hf.lean import LeanDecoder, joined_bias
from anytalk.plugins.hf.onnx_graph import Graph, Layer, Matrix, product_graph, step_graph
from anytalk.plugins.optional import require

_WHOLE_HEADS = 16
"""``GroupQueryAttention`` rotates heads whose width is a multiple of this."""

_logger = logging.getLogger(__name__)

_KINDS = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int64}


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
        else:
            _logger.warning(
                "steps are taken in 8 bits instead of 4: heads are %d wide, and ONNX Runtime wants a multiple of %d",
                self.head_width,
                _WHOLE_HEADS,
            )

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> BackboneStates:
        """Run like :class:`LeanDecoder`."""
        if self._step is None or cache is None or hidden.shape[1] != 1 or not cache.length:
            return super().forward(hidden, cache)
        with torch.inference_mode():
            cache.make_room(1)
            rows = cache.rows
            positions = rows.positions(1).expand(len(rows.lengths), 1).contiguous()
            states = self._step(hidden.contiguous(), cache, positions, self._halves(int(positions.max()) + 1, hidden))
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
    """Runs one step of all layers on a cache's own memory.

    Args:
        decoder: A transformers decoder; see :class:`LeanDecoder`.
        num_heads: Heads of keys and values.
        group: Heads of queries for each of them.
        head_width: w.
    """

    def __init__(self, decoder: Any, num_heads: int, group: int, head_width: int) -> None:
        layers = [_layer(layer) for layer in decoder.layers]
        eps = float(decoder.norm.variance_epsilon)
        graph = step_graph(layers, decoder.norm.weight.detach().clone(), eps, num_heads, group, head_width)
        self._session = _Session(graph)

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
        lengths = cache.rows.lengths
        inputs = {
            "hidden": hidden,
            "past": torch.tensor(lengths, dtype=torch.int32),
            "longest": torch.tensor(max(lengths) + 1, dtype=torch.int32),
            "positions": positions,
            "cos": turns[0],
            "sin": turns[1],
        }
        outputs = {"states": torch.empty_like(hidden), "normed": torch.empty_like(hidden)}
        for number, memory in enumerate(cache.layers.values()):
            # The memory may have room for more rows.
            for name, held in zip(("keys", "values"), memory[:, : len(lengths)], strict=True):
                inputs[f"{name}.{number}"] = outputs[f"new_{name}.{number}"] = held
        self._session.run(inputs, outputs)
        return BackboneStates(outputs["states"], outputs["normed"])


class OnnxMatrix(nn.Module):
    """Multiplies by weights of 4 bits, (...,in) float32 -> (...,out) float32.

    Args:
        linear: The layer whose weights are quantised; it isn't changed.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        matrix = _matrix(linear)
        self.bias, self._num_outputs = matrix.bias, int(linear.out_features)
        self._session = _Session(product_graph(matrix))

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, 1, rows.shape[-1]).contiguous()
        made = flat.new_empty(len(flat), 1, self._num_outputs)
        self._session.run({"rows": flat}, {"made": made})
        return made.view(*rows.shape[:-1], -1)


class _Session:
    """Runs a graph on tensors of torch, with as many threads as torch has when it is made."""

    def __init__(self, graph: Graph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors alone
        # Its threads must leave the cores to torch's at once.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # The session reads these weights where they are, so they must live as long as it does.
        self._weights = {name: tensor.numpy() for name, tensor in graph.weights.items()}
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        options.add_external_initializers(list(self._weights), values)
        self._session = onnxruntime.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Compute outputs into these tensors, which may be inputs; each must lie in memory without gaps."""
        binding = self._session.io_binding()
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, tensor in tensors.items():
                bind(name, "cpu", 0, _KINDS[tensor.dtype], list(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)


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
    return Matrix(made, int(linears[0].in_features), joined_bias(*linears))
