"""Writes one decoding step of a Llama or Qwen2 decoder as an ONNX graph with 4-bit weights.

Its operators are those that ONNX Runtime has for language models: ``MatMulNBits`` and ``GroupQueryAttention``, which
also rotates queries and keys and adds keys and values to the cache.

Letters: B batch, D width, H key and value heads, w head width, M steps that the cache has room for, P positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anytalk.plugins.hf.four_bits import BLOCK, has_means

_OPSET, _IR = 21, 10
_CONTRIBUTED = "com.microsoft"
_INT8_INPUTS = 4
"""``accuracy_level`` of ``MatMulNBits`` that quantises inputs to 8 bits, in blocks like the weights."""


class Matrix(NamedTuple):
    """A matrix in 4 bits, from (..., inputs) to (..., outputs).

    Attributes:
        made: See :func:`anytalk.plugins.hf.four_bits.quantise`.
        inputs: How many inputs it has, without means of blocks.
        bias: (outputs,) float32.
    """

    made: dict[str, Tensor]
    inputs: int
    bias: Tensor | None


class Layer(NamedTuple):
    """The matrices of a layer, by the names of :class:`anytalk.plugins.hf.lean.LeanDecoder`, and its norms, (D,)."""

    qkv: Matrix
    out: Matrix
    gate_up: tuple[Matrix, Matrix]
    down: Matrix
    norm_1: Tensor
    norm_2: Tensor


class Graph:
    """Collects nodes and weights.

    Attributes:
        weights: By name, the weights that the model names but doesn't contain; they stay in torch's memory.
    """

    def __init__(self) -> None:
        import onnx
        import onnx.numpy_helper

        self._onnx: Any = onnx
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._lists: list[Any] = []
        self._count = 0
        self._with_means: dict[str, str] = {}
        self.weights: dict[str, Tensor] = {}

    def input(self, name: str, dtype: torch.dtype, *shape: int | str) -> str:
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, self._type(dtype), shape))
        return name

    def output(self, name: str, *shape: int | str) -> None:
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, self._type(torch.float32), shape))

    def node(
        self, kind: str, inputs: list[str], outputs: list[str] | None = None, contributed: bool = False, **rest: Any
    ) -> str:
        """Add a node; return its first output, which is named for it if `outputs` is None.

        Args:
            kind: The operator.
            inputs: Names; an empty one leaves an optional input out.
            outputs: Names; an empty one leaves an optional output out.
            contributed: Whether the operator is ONNX Runtime's, and not in the standard of ONNX.
            rest: The operator's attributes.
        """
        self._count += 1
        outputs = outputs or [f"n{self._count}"]
        domain = _CONTRIBUTED if contributed else ""
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, domain=domain, **rest))
        return outputs[0]

    def numbers(self, *values: int) -> str:
        """Add a list of numbers, which the model contains."""
        name = f"c{len(self._lists)}"
        self._lists.append(self._onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def constant(self, value: Tensor) -> str:
        """Add a weight that stays in torch's memory."""
        name = f"w{len(self.weights)}"
        self.weights[name] = value.detach().contiguous()
        return name

    def product(self, rows: str, matrix: Matrix) -> str:
        """Multiply (B,1,inputs) by a matrix; return the name of the (B,1,outputs)."""
        made, num_outputs, blocks = matrix.made, len(matrix.made["codes"]), -(-matrix.inputs // BLOCK)
        inputs = matrix.inputs
        if has_means(made, inputs):
            rows, inputs = self._means(rows, inputs), blocks * (BLOCK + 1)
        names = [rows, *(self.constant(made[name]) for name in ("codes", "scales", "zeros"))]
        if matrix.bias is not None:
            names += ["", self.constant(matrix.bias)]
        sizes: dict[str, Any] = {
            "N": num_outputs,
            "K": inputs,
            "bits": 4,
            "block_size": BLOCK,
            "accuracy_level": _INT8_INPUTS,
        }
        return self.node("MatMulNBits", names, contributed=True, **sizes)

    def model(self) -> bytes:
        """Return the model as ONNX Runtime reads it, without the weights."""
        onnx, helper = self._onnx, self._onnx.helper
        graph = helper.make_graph(self._nodes, "step", self._inputs, self._outputs, self._lists)
        for name, value in self.weights.items():
            told = graph.initializer.add(name=name, data_type=self._type(value.dtype), dims=value.shape)
            told.data_location = onnx.TensorProto.EXTERNAL
            told.external_data.add(key="location", value="memory")
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIBUTED, 1)]
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString()
        return made

    def _means(self, rows: str, count: int) -> str:
        """Append the mean of each block to (B,1,count) inputs, once for all matrices that read them."""
        if rows not in self._with_means:
            spare = -count % BLOCK
            wide = self.node("Pad", [rows, self.numbers(0, 0, 0, 0, 0, spare)]) if spare else rows
            means = self.node("AveragePool", [wide], kernel_shape=[BLOCK], strides=[BLOCK])
            self._with_means[rows] = self.node("Concat", [wide, means], axis=2)
        return self._with_means[rows]

    def _type(self, dtype: torch.dtype) -> int:
        kinds = self._onnx.TensorProto
        names = {torch.float32: kinds.FLOAT, torch.uint8: kinds.UINT8, torch.int32: kinds.INT32}
        return int(names.get(dtype, kinds.INT64))


def step_graph(layers: list[Layer], norm: Tensor, eps: float, num_heads: int, group: int, head_width: int) -> Graph:
    """Write one step of all layers and the final norm.

    Inputs: ``hidden`` (B,1,D); ``past`` (B,) int32, the steps that each row holds; ``longest`` () int32, the steps of
    the longest row with the new one; ``positions`` (B,1) int64; ``cos`` and ``sin`` (P,w/2); ``keys.N`` and
    ``values.N`` (B,H,M,w). Outputs: ``states`` and ``normed`` (B,1,D), ``new_keys.N`` and ``new_values.N``, which must
    be bound to the memory of the inputs.

    Args:
        layers: The layers' matrices.
        norm: (D,), the final norm.
        eps: What norms add to the mean square.
        num_heads: Heads of keys and values.
        group: Heads of queries for each of them.
        head_width: w.
    """
    graph, width = Graph(), len(norm)
    hidden = graph.input("hidden", torch.float32, "rows", 1, width)
    places = (
        graph.input("past", torch.int32, "rows"),
        graph.input("longest", torch.int32),
        graph.input("cos", torch.float32, "turns", head_width // 2),
        graph.input("sin", torch.float32, "turns", head_width // 2),
        graph.input("positions", torch.int64, "rows", 1),
    )
    heads = {"num_heads": num_heads * group, "kv_num_heads": num_heads, "do_rotary": 1}
    normed = graph.node(
        "SimplifiedLayerNormalization", [hidden, graph.constant(layers[0].norm_1)], epsilon=eps, axis=-1, stash_type=1
    )
    for number, layer in enumerate(layers):
        shape = ("rows", num_heads, "room", head_width)
        cached = [graph.input(f"{name}.{number}", torch.float32, *shape) for name in ("keys", "values")]
        for name in cached:
            graph.output(f"new_{name}", *shape)
        mixed = graph.product(normed, layer.qkv)
        heard = graph.node(
            "GroupQueryAttention",
            [mixed, "", "", *cached, *places],
            [f"heard.{number}", *(f"new_{name}" for name in cached)],
            contributed=True,
            **heads,
        )
        hidden, normed = _added(graph, graph.product(heard, layer.out), hidden, layer.norm_2, eps, f"middle.{number}")
        gate, up = (graph.product(normed, matrix) for matrix in layer.gate_up)
        wide = graph.node(
            "Mul", [graph.node("QuickGelu", [gate], contributed=True, alpha=1.0), up]
        )  # alpha 1 makes it SiLU
        is_last = number + 1 == len(layers)
        after = norm if is_last else layers[number + 1].norm_1
        name = "states" if is_last else f"hidden.{number}"
        hidden, normed = _added(graph, graph.product(wide, layer.down), hidden, after, eps, name)
    graph.node("Identity", [normed], ["normed"])
    for name in ("states", "normed"):
        graph.output(name, "rows", 1, width)
    return graph


def product_graph(matrix: Matrix) -> Graph:
    """Write one product: ``rows`` (B,1,inputs) to ``made`` (B,1,outputs)."""
    graph = Graph()
    rows = graph.input("rows", torch.float32, "count", 1, matrix.inputs)
    graph.node("Identity", [graph.product(rows, matrix)], ["made"])
    graph.output("made", "count", 1, len(matrix.made["codes"]))
    return graph


def _added(graph: Graph, more: str, hidden: str, norm: Tensor, eps: float, name: str) -> tuple[str, str]:
    """Add to the hidden states; return their name and that of the result of the norm that follows."""
    normed = f"normed.{name}"
    inputs = [more, hidden, graph.constant(norm)]
    graph.node("SkipSimplifiedLayerNormalization", inputs, [normed, "", "", name], contributed=True, epsilon=eps)
    return name, normed
