"""What is replaced in gguf and transformers while a GGUF file is read, or written anew, gives what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from fuzz_models import gguf_of
from gguf import quants
from transformers import modeling_gguf_pytorch_utils as reading

from anytalk.errors import WeightsError
from anytalk.plugins.disk_cache import entries
from anytalk.plugins.hf import gguf_convert, gguf_file, gguf_quick
from anytalk.plugins.hf.loading import load_causal_lm
from anytalk.plugins.sources import resolve


@pytest.mark.parametrize("rows", [1, 63, 64, 200])
@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q8_0", "F16"])
def test_weights_are_those_of_gguf(kind: str, rows: int) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).standard_normal((2, rows, 64)).astype(np.float32)
    stored = gguf.quantize(values, quantisation)
    expected, original = gguf.dequantize(stored, quantisation), quants._apply_over_grouped_rows
    with gguf_quick.read_once():
        assert quants._apply_over_grouped_rows is gguf_quick.apply_to_rows
        found = gguf.dequantize(stored, quantisation)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert quants._apply_over_grouped_rows is original


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q6_K", "F16", "F32"])
def test_tensors_in_pieces_are_those_of_gguf(kind: str, tmp_path: Path) -> None:
    quantisation, draw = gguf.GGMLQuantizationType[kind], np.random.default_rng(0)
    if kind == "Q6_K":  # `gguf` can't make it
        stored = draw.integers(0, 256, (130, 2 * 210), dtype=np.uint8)
        stored.reshape(-1, 210)[:, 208:] = draw.standard_normal((260, 1)).astype(np.float16).view(np.uint8)
    else:
        stored = gguf.quantize(draw.standard_normal((130, 64)).astype(np.float32), quantisation)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("one", stored, raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = gguf.GGUFReader(tmp_path / "one.gguf").tensors
    found = np.concatenate(list(gguf_quick.dequantized(tensor)))
    expected = gguf.dequantize(tensor.data, quantisation)
    assert found.dtype == expected.dtype
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
    assert np.array_equal(gguf_quick.whole(tensor), expected)


def test_values_are_those_of_transformers() -> None:
    text = np.frombuffer("Ġgrün".encode(), np.uint8)
    for value, kinds in (
        (text, [8]),
        (text, [9, 8]),
        (np.array([7], np.uint32), [4]),
        (np.array([7], np.int32), [9, 5]),
    ):
        expected = reading._gguf_parse_value(value, kinds)
        with gguf_quick.read_once():
            assert reading._gguf_parse_value(value, kinds) == expected


def test_fields_are_those_of_gguf(tmp_path: Path) -> None:
    gguf_of(tmp_path / "model.gguf", with_tensors=True)
    expected, found = gguf.GGUFReader(tmp_path / "model.gguf"), gguf_quick.PlainReader(tmp_path / "model.gguf")
    assert list(found.fields) == list(expected.fields)
    for name, field in expected.fields.items():
        mine = found.fields[name]
        assert (mine.contents(), mine.types, len(mine.data)) == (field.contents(), field.types, len(field.data))
    for mine, theirs in zip(found.tensors, expected.tensors, strict=True):
        assert mine.name == theirs.name
        assert np.array_equal(mine.data, theirs.data)


@pytest.mark.parametrize("way", ["straight", "by transformers"])
def test_a_converted_file_is_the_model_that_transformers_reads(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "cache"))
    gguf_of(tmp_path / "model.gguf", with_tensors=True)
    expected, tokenizer = gguf_file.load(tmp_path / "model.gguf", torch.float32)
    expected.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    if way == "by transformers":  # a family that it reads in another way
        monkeypatch.setattr(gguf_convert, "_has_newer_reader", lambda _: True)
    loaded = load_causal_lm(resolve(str(tmp_path / "model.gguf")), None, torch.float32)
    found = loaded.lm.state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    (entry,) = entries()
    for path in (tmp_path / "saved").iterdir():
        if path.suffix != ".safetensors":
            assert (entry.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_tensors_that_are_missing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "cache"))
    add = gguf.GGUFWriter.add_tensor

    def most(writer: gguf.GGUFWriter, name: str, *values: Any, **more: Any) -> None:
        if name != "blk.0.ffn_up.weight":
            add(writer, name, *values, **more)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", most)
    gguf_of(tmp_path / "model.gguf", with_tensors=True)
    with pytest.raises(
        WeightsError, match=r"'model.gguf' lacks 1 tensors .* first 'model.layers.0.mlp.up_proj.weight'"
    ):
        load_causal_lm(resolve(str(tmp_path / "model.gguf")), None, torch.float32)
    assert entries() == []
