"""Refuses model folders and configs that can't be loaded, and says what they are instead."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from anytalk.errors import WeightsError

_POINTER = b"version https://git-lfs"
# Git LFS itself takes no larger file for a pointer.
_POINTER_BYTES = 1024
# Far above any real model.
_MOST = {
    "num_hidden_layers": 2_000,
    "num_attention_heads": 10_000,
    "hidden_size": 200_000,
    "intermediate_size": 2_000_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 1 << 32,
}
_FLOATING = ("F64", "F32", "F16", "BF16")
_AGAIN = "copy or download the model's folder again"
_PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "consolidated*.pt?")  # names that PyTorch checkpoints usually have


def check_files(folder: Path, name: str) -> None:
    """Refuse a folder that transformers would reject with an unhelpful error, or load wrongly without one.

    Raises:
        WeightsError: Git LFS pointers, a PEFT adapter (alone or beside a model), no config, or settings that are no
            JSON objects; it says what to do.
    """
    for path in sorted(folder.iterdir()):
        if is_lfs_pointer(path):
            raise WeightsError(
                f"'{name}/{path.name}' is the pointer of a Git LFS file, not the file itself",
                f"fetch what it points at: cd {name} && git lfs pull",
            )
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _check_json(folder / file, name)
    if (folder / "adapter_config.json").is_file():
        raise _adapter(folder, name, beside=_has_weights(folder))
    if not (folder / "config.json").is_file():
        files = sorted(path.name for path in folder.glob("*.gguf"))
        hint = (
            f"give the file: {name}/{files[0]}" if files else "give the folder of a Hugging Face model, or a .gguf file"
        )
        raise WeightsError(f"'{name}' holds no config.json", hint)


def check_weights(folder: Path, name: str) -> None:
    """Refuse a causal language model's folder without readable weights or without a tokenizer.

    Raises:
        WeightsError: pickles instead of safetensors, no weights, or no tokenizer; it says what to do.
    """
    has_weights = _has_weights(folder)
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if not has_weights and pickles:
        raise WeightsError(
            f"'{name}' holds its weights as a pickle ({pickles[0]}); loading that could run code, so it is refused",
            "get the model's .safetensors; or, if you trust it, write them: python -c \"from transformers import "
            f"AutoModelForCausalLM as M; M.from_pretrained('{name}').save_pretrained('{name}')\"",
        )
    if not has_weights:
        raise WeightsError(f"'{name}' holds no weights (*.safetensors)", "copy or download the model's folder again")
    _check_pieces(folder, name)
    _check_heads(folder, name)
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "*.model")
    if not any(any(folder.glob(pattern)) for pattern in tokenizers):
        raise WeightsError(
            f"'{name}' holds no tokenizer", "copy tokenizer.json and tokenizer_config.json of the same model beside it"
        )


def _check_json(path: Path, name: str) -> None:
    """Refuse settings that can't be read: transformers goes on without some of them, and says nothing."""
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"'{name}/{path.name}' is no JSON in UTF-8: {reason}", _AGAIN) from None
    if not isinstance(found, dict):
        raise WeightsError(f"'{name}/{path.name}' holds no JSON object", _AGAIN)


def _check_pieces(folder: Path, name: str) -> None:
    """Refuse an index of weights that names what isn't there, and pieces of weights without an index."""
    if (folder / "model.safetensors").is_file():
        return  # which transformers takes first
    index = folder / "model.safetensors.index.json"
    pieces = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if pieces and not index.is_file():
        raise WeightsError(f"'{name}' holds {len(pieces)} pieces of weights, and no {index.name}", "copy it, too")
    if not index.is_file():
        return
    _check_json(index, name)
    places = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
        raise WeightsError(f"'{name}/{index.name}' has no weight_map of tensors and files beside it", _AGAIN)
    lost = sorted({file for file in places.values() if not (folder / file).is_file()})
    if lost:
        raise WeightsError(f"{len(lost)} pieces of the weights of '{name}' are missing, first '{lost[0]}'", _AGAIN)


def _check_heads(folder: Path, name: str) -> None:
    """Refuse files that are called .safetensors, and are something else."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            head = file.read(64)
        seems = "a web page" if head.lstrip()[:1] == b"<" else "a pickle" if head[:2] in (b"\x80\x04", b"PK") else ""
        if seems:
            raise WeightsError(
                f"'{name}/{path.name}' is {seems}, not a safetensors file", "download the file itself again"
            )


def check_dtypes(folder: Path, name: str, floating: Set[str]) -> None:
    """Refuse numbers that were packed by a library of their own: as they are, they are no weights.

    Args:
        folder: The model's.
        name: What messages call it.
        floating: Names of the model's tensors that are floating numbers.

    Raises:
        WeightsError: the first such tensor.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(size))
        for tensor, found in sorted(tensors.items()):
            dtype = found.get("dtype")
            if dtype is not None and dtype not in _FLOATING and floating & {tensor, f"model.{tensor}"}:
                raise WeightsError(
                    f"the weights of '{name}' hold '{tensor}' as {dtype}, which isn't a number of its own",
                    "give the model that it was made from, in float32, float16 or bfloat16",
                )


def _has_weights(folder: Path) -> bool:
    return bool({path.name for path in folder.glob("*.safetensors")} - {"adapter_model.safetensors"})


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is the pointer that `git clone` leaves for a large file if Git LFS isn't installed."""
    try:
        if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
            return False
        return path.read_bytes().startswith(_POINTER)
    except OSError:
        return False


def check_sizes(config: Any, name: str) -> None:
    """Refuse sizes that no model has, because building millions of layers would never end.

    Raises:
        WeightsError: the first such size.
    """
    for size, most in _MOST.items():
        found = getattr(config, size, None)
        if isinstance(found, int) and not 0 < found <= most:
            raise WeightsError(
                f"'{name}' says that its {size} is {str(found)[:40]}; 1 to {most:,} are possible",
                "copy or download the model again",
            )


def check_quantisation(config: Any, name: str) -> None:
    """Refuse weights that only their own library can multiply with (GPTQ, AWQ, bitsandbytes ...).

    Raises:
        WeightsError: it says how they are quantised and what to use instead.
    """
    found = getattr(config, "quantization_config", None) or getattr(config, "quantization", None)  # MLX's name for it
    if not found:
        return
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    how = getattr(method, "value", method) or "in an unknown way"
    raise WeightsError(
        f"'{name}' is quantised ({how}), and its weights can't be read as numbers",
        "give its .gguf file, or the model that it was made from; `--arithmetic int8` quantises that here",
    )


def _adapter(folder: Path, name: str, beside: bool) -> WeightsError:
    merge = "merge it into its model (peft: merge_and_unload(), save_pretrained(FOLDER)) and give that FOLDER"
    if beside:
        return WeightsError(
            f"'{name}' holds a PEFT adapter beside the model, and it is unclear whether to use it",
            f"{merge}; or move adapter_config.json away",
        )
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        base = None
    of = f"'{base}'" if isinstance(base, str) and base else "another model"
    return WeightsError(f"'{name}' is a PEFT adapter: it changes the weights of {of}, and has none of its own", merge)
