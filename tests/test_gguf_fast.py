"""What is replaced in gguf and transformers while a GGUF file is read gives what they give."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from transformers import modeling_gguf_pytorch_utils as reading

from anytalk.plugins.hf import gguf_file


@pytest.mark.parametrize("rows", [1, 63, 64, 200])
@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q8_0", "F16"])
def test_weights_are_those_of_gguf(kind: str, rows: int) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).standard_normal((2, rows, 64)).astype(np.float32)
    stored = gguf.quantize(values, quantisation)
    expected, original = gguf.dequantize(stored, quantisation), quants._apply_over_grouped_rows
    with gguf_file._read_once():
        assert quants._apply_over_grouped_rows is gguf_file.apply_to_rows
        found = gguf.dequantize(stored, quantisation)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert quants._apply_over_grouped_rows is original


def test_values_are_those_of_transformers() -> None:
    text = np.frombuffer("Ġgrün".encode(), np.uint8)
    for value, kinds in (
        (text, [8]),
        (text, [9, 8]),
        (np.array([7], np.uint32), [4]),
        (np.array([7], np.int32), [9, 5]),
    ):
        expected = reading._gguf_parse_value(value, kinds)
        with gguf_file._read_once():
            assert reading._gguf_parse_value(value, kinds) == expected
