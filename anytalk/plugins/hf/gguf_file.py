"""Reads a plain model and its tokenizer from a GGUF file, the format of llama.cpp."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytalk.plugins.hf.gguf_quick import read_once
from anytalk.plugins.hf.model_files import check_sizes


def load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Read model (de-quantised, in eval mode) and tokenizer from a GGUF file by way of transformers."""
    folder, name = str(path.parent), path.name
    # tqdm's progress bar over the tensors ignores all of transformers' switches, so its output is dropped.
    with read_once(), redirect_stderr(io.StringIO()):
        check_sizes(AutoConfig.from_pretrained(folder, gguf_file=name), name)
        quantised: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    config = quantised.config
    # transformers keeps calling the de-quantised model "quantised" and then refuses to cast or save it.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # The path is only valid on this machine.
    config.name_or_path = ""
    config.architectures = [type(quantised).__name__]
    plain: Any = type(quantised).from_pretrained(None, config=config, state_dict=quantised.state_dict(), dtype=dtype)
    return plain.eval(), tokenizer
