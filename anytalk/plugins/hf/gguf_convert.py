"""Converts a GGUF file to a folder that transformers reads, tensor by tensor, so that no model is held in memory.

transformers decides the tensors' names and layout; ``tests/test_gguf_fast.py`` compares the results.
"""

from __future__ import annotations

import io
import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytalk.errors import WeightsError
from anytalk.plugins.hf.gguf_quick import dequantized, read_once, whole
from anytalk.plugins.hf.model_files import check_sizes

_WEIGHTS = "model.safetensors"
# Its functions carry no annotations.
reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")


def convert(path: Path, folder: Path) -> bool:
    """Write weights (safetensors, float32), configuration and tokenizer of a GGUF file into a new folder.

    Returns:
        False if tensors of the file and of the model don't correspond one to one (experts, and families that
        transformers reads in another way); then nothing is written.

    Raises:
        WeightsError: a size that no model has, or tensors that the model needs and the file lacks.
    """
    place, name = str(path.parent), path.name
    with read_once(), redirect_stderr(io.StringIO()), ThreadPoolExecutor(1) as thread:
        config = AutoConfig.from_pretrained(place, gguf_file=name)
        check_sizes(config, name)
        auto: Any = AutoModelForCausalLM
        with torch.device("meta"):
            lm = auto.from_config(config, dtype=torch.float32)
        folder.mkdir()
        wrote = thread.submit(_write_weights, path, lm, folder / _WEIGHTS)
        # Loading the tokenizer is Python's work, so it runs while numpy dequantises in the other thread.
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        if not wrote.result():
            (folder / _WEIGHTS).unlink(missing_ok=True)
            folder.rmdir()
            return False
    tokenizer.save_pretrained(folder)
    lm.config.architectures = [type(lm).__name__]
    lm.config.save_pretrained(folder)
    if lm.can_generate():
        lm.generation_config.save_pretrained(folder)
    return True


def _write_weights(path: Path, lm: Any, place: Path) -> bool:
    """Write all tensors that a model needs; return whether they correspond to those of the file."""
    reader = gguf.GGUFReader(str(path))
    architecture = str(reader.fields["general.architecture"].contents())
    tied = getattr(lm, "all_tied_weights_keys", None)  # none in transformers 4
    if tied is None or _has_newer_reader(architecture):
        return False
    told = reading.load_gguf_checkpoint(str(path))["config"]
    processor = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)(config=told)
    names = reading.get_gguf_hf_weights_map(lm, processor)
    tensors = {names[tensor.name]: tensor for tensor in reader.tensors if tensor.name in names}
    shapes = {name: tuple(tensor.shape) for name, tensor in lm.state_dict().items()}
    missing = shapes.keys() - tensors.keys() - set(tied)
    if missing - dict(lm.named_parameters()).keys() or tensors.keys() - shapes.keys():
        return False  # buffers that no GGUF file holds, or names of another kind
    if missing:
        raise WeightsError(
            f"'{path.name}' lacks {len(missing)} tensors that its model needs, first '{min(missing)}'",
            "download the .gguf file again, or use the model's safetensors folder",
        )
    starts = _begin(place, {name: shapes[name] for name in tensors})
    as_they_are = type(processor).process is reading.TensorProcessor.process

    def write(name: str) -> bool:
        """Write a tensor to its place in the file, unless its shape isn't the model's."""
        with place.open("r+b") as file:
            file.seek(starts[name])
            if as_they_are and tuple(map(int, tensors[name].shape[::-1])) == shapes[name]:
                for values in dequantized(tensors[name]):
                    file.write(values.data)
                return True
            values = whole(tensors[name])
            more = {"tensor_key_mapping": names, "parsed_parameters": {"tensors": {}}}
            made = processor.process(weights=values, name=tensors[name].name, **more)
            if made.name != tensors[name].name or made.weights.shape != shapes[name]:
                return False
            file.write(np.ascontiguousarray(made.weights, np.float32).data)
            return True

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return all(pool.map(write, tensors))


def _has_newer_reader(architecture: str) -> bool:
    """Return whether transformers reads this family in its second way, which has other rules for its tensors."""
    try:
        newer: Any = import_module("transformers.integrations.gguf")
    except ImportError:  # an older transformers
        return False
    return bool(newer.is_gguf_arch_supported(architecture))


def _begin(place: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Write the header of a float32 safetensors file; return the offset of each tensor in bytes."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts, at = {}, 0
    for name, shape in shapes.items():
        starts[name], at = at, at + 4 * math.prod(shape)
        told[name] = {"dtype": "F32", "shape": shape, "data_offsets": [starts[name], at]}
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    place.write_bytes(struct.pack("<Q", len(text)) + text)
    return {name: 8 + len(text) + start for name, start in starts.items()}
