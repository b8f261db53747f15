"""Folders that hold a model in a way that can't be loaded: one sentence says what it is, the hint what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import TINY_PARTS, model_folder

from anytalk.errors import ConfigError, WeightsError
from anytalk.model.attach import attach
from anytalk.model.talker import load_talker, save_talker

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 12345\n"


def pointer(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(POINTER)

    return change


def changed(file: str, **fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        (folder / file).write_text(json.dumps({**data, **fields}))

    return change


def pickled(folder: Path) -> None:
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def beside(folder: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "somebody/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)}
    safetensors.torch.save_file(weights, folder / "adapter_model.safetensors")


def alone(folder: Path) -> None:
    beside(folder)
    without("model.safetensors")(folder)


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def beside_a_gguf(folder: Path) -> None:
    without("config.json")(folder)
    (folder / "small.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (pointer("model.safetensors"), "model.safetensors' is the pointer of a Git LFS file", "git lfs pull"),
        (pointer("tokenizer.json"), "tokenizer.json' is the pointer of a Git LFS file", "git lfs pull"),
        (changed("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "(gptq)", ".gguf"),
        (changed("config.json", quantization_config={"quant_method": "awq", "bits": 4}), "(awq)", ".gguf"),
        (changed("config.json", quantization_config={"quant_method": "bitsandbytes"}), "(bitsandbytes)", ".gguf"),
        (changed("config.json", quantization_config={"load_in_4bit": True}), "quantised", ".gguf"),
        (changed("config.json", num_hidden_layers=1 << 31), "num_hidden_layers is 2147483648", "again"),
        (changed("config.json", rms_norm_eps=float("nan")), "computes values that are not finite", "config.json"),
        (changed("config.json", hidden_size=64), "is [300, 32], and [300, 64] is expected", "config.json"),
        (pickled, "as a pickle (pytorch_model.bin)", "save_pretrained"),
        (alone, "PEFT adapter: it changes the weights of 'somebody/base'", "merge_and_unload"),
        (beside, "holds a PEFT adapter beside the model", "merge_and_unload"),
        (without("model.safetensors"), "holds no weights", "again"),
        (without("config.json"), "holds no config.json", "folder"),
        (beside_a_gguf, "holds no config.json", "lm/small.gguf"),
        (changed("config.json", quantization={"group_size": 64, "bits": 4}), "quantised", ".gguf"),
        (without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer", "tokenizer.json"),
    ],
)
def test_the_hint_fits_the_fault(tmp_path: Path, change: Callable[[Path], None], said: str, hint: str) -> None:
    model = model_folder(tmp_path / "lm", "llama")
    change(model)
    with pytest.raises(WeightsError) as caught:
        attach(str(model), tmp_path / "talker", assignments=TINY_PARTS)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert not (tmp_path / "talker").exists()


def test_a_trained_backbone_of_own_code_loads_where_the_code_was_trusted(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "lm", "llama")
    auto = {"AutoConfig": "zebra.ZebraConfig", "AutoModelForCausalLM": "zebra.ZebraForCausalLM"}
    changed("config.json", model_type="zebra", architectures=["ZebraForCausalLM"], auto_map=auto)(model)
    (model / "zebra.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class ZebraConfig(LlamaConfig):\n    model_type = 'zebra'\n\n\n"
        "class ZebraForCausalLM(LlamaForCausalLM):\n    config_class = ZebraConfig\n"
    )
    trusts = "backbone.options.trust_remote_code=true"
    talker = attach(str(model), tmp_path / "talker", assignments=[*TINY_PARTS, trusts])
    save_talker(talker, tmp_path / "talker", trained={"backbone"})
    again = load_talker(tmp_path / "talker")
    assert again.config.backbone_folder is not None
    assert type(again.model.backbone.lm).__name__ == "ZebraForCausalLM"  # type: ignore[attr-defined]
    file = tmp_path / "talker" / "talker.yaml"
    file.write_text(file.read_text().replace("trust_remote_code: true", "trust_remote_code: false"))
    with pytest.raises(WeightsError, match="its own Python code"):
        load_talker(tmp_path / "talker")


def test_a_talker_is_no_model(tmp_path: Path) -> None:
    attach("tiny", tmp_path / "talker", assignments=TINY_PARTS)
    with pytest.raises(ConfigError, match="is already a talker"):
        attach(str(tmp_path / "talker"), tmp_path / "other", assignments=TINY_PARTS)
