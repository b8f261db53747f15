"""Kinds of input for the search of :mod:`fuzz_lab`: GGUF files, chat templates, and folders of models."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from fuzz_lab import Kind, as_json, mutate_bytes, mutate_json, mutate_text
from test_backbones import CHATML, make_lm, make_tokenizer

from anytalk.grid.chat import encode_chat
from anytalk.model.attach import choose_backbone
from anytalk.model.checks import check_template, check_weights
from anytalk.model.config import GridConfig
from anytalk.plugins import BuildContext, PartRef, gguf_header
from anytalk.plugins.contracts import Backbone
from anytalk.plugins.hf import HFTokenizer
from anytalk.plugins.registry import default_registry
from anytalk.plugins.sources import resolve
from anytalk_backbones.llama import LlamaBackbone

TEMPLATES = [
    CHATML,
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{%- for message in messages %}{%- if message['content'] is string %}{%- set text = message['content'] %}"
    "{%- else %}{%- set text = message['content'][0]['text'] %}{%- endif %}<|im_start|>{{ message.role }}\n"
    "{{ text }}<|im_end|>\n{%- endfor %}",
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}",
    "{%- if tools %}{{ tools | tojson }}{%- endif %}{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for m in messages[::-1] %}{%- set ns.last = loop.revindex %}{%- endfor %}{%- for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- if enable_thinking is defined and enable_thinking is "
    "false %}<think>\n\n</think>\n\n{%- endif %}{%- endif %}",
]
CHAT: list[tuple[str, list[str | int]]] = [
    ("system", ["Be brief."]),
    ("user", ["Is <|im_end|> markup?", 3]),
    ("assistant", ["No."]),
    ("user", ["Good."]),
]


def model_kinds(folder: Path) -> list[Kind]:
    """Kinds whose files are written into `folder`."""
    header = gguf_of(folder / "header.gguf", with_tensors=False)
    whole = gguf_of(folder / "whole.gguf", with_tensors=True)

    def read_header(given: bytes) -> None:
        (folder / "fuzz.gguf").write_bytes(given)
        gguf_header.read_header(folder / "fuzz.gguf")

    def load(given: bytes) -> None:
        (folder / "fuzz.gguf").write_bytes(given)
        _build(folder / "fuzz.gguf")

    return [
        Kind("GGUF header", [header, whole], lambda draw, seeds: mutate_bytes(draw, seeds, head=200), read_header),
        Kind("GGUF file", [whole], lambda draw, seeds: mutate_bytes(draw, seeds, head=len(header)), load),
        Kind("chat template", TEMPLATES, mutate_text, _template()),
        _model_folder(folder / "lm"),
    ]


def gguf_of(path: Path, with_tensors: bool) -> bytes:
    """A Llama of one layer, with its tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_tags(["a", "b"])
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    known = make_tokenizer().get_vocab()
    words = [*sorted(known, key=lambda word: known[word]), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * 256 + [3] * (len(words) - 257) + [1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_chat_template(CHATML)
    if with_tensors:
        draw = np.random.default_rng(0)
        shapes = {
            "token_embd": (len(words), 32),
            "output": (len(words), 32),
            "output_norm": (32,),
            "blk.0.attn_norm": (32,),
            "blk.0.ffn_norm": (32,),
            "blk.0.attn_q": (32, 32),
            "blk.0.attn_k": (16, 32),
            "blk.0.attn_v": (16, 32),
            "blk.0.attn_output": (32, 32),
            "blk.0.ffn_gate": (32, 32),
            "blk.0.ffn_up": (32, 32),
            "blk.0.ffn_down": (32, 32),
        }
        for name, shape in shapes.items():
            values = draw.standard_normal(shape).astype(np.float32)
            if name == "blk.0.attn_q":
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if with_tensors:
        writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _build(path: Path) -> None:
    """As `attach` does before it makes parts."""
    registry, source = default_registry(), resolve(str(path))
    ref = PartRef(name=choose_backbone(source, registry), options={"model": str(path)})
    _check(registry.build("backbone", ref, BuildContext()))


def _check(backbone: Backbone) -> None:
    check_weights(backbone, "x")
    check_template(backbone, GridConfig(codec_streams=1, codebook_size=8))
    if backbone.tokenizer.has_chat_template:
        pieces = encode_chat(backbone.tokenizer, CHAT)
        ids = [token for piece in pieces if not isinstance(piece, int) for token in piece]
        assert 3 in pieces
        with torch.no_grad():
            backbone(backbone.embed_text(torch.tensor([ids[:50]])))


def _template() -> Callable[[str], None]:
    base = make_tokenizer()
    backbone = LlamaBackbone(make_lm("llama"), base)

    def attempt(given: str) -> None:
        base.chat_template = given
        backbone.tokenizer = HFTokenizer(base, backbone.text_vocab_size)
        _check(backbone)

    return attempt


def _model_folder(folder: Path) -> Kind:
    """A folder of safetensors in which one of the JSON files is another one."""
    good = folder.with_name("good")
    LlamaBackbone(make_lm("llama"), make_tokenizer(), "MIT").save_native(good)
    names = [path.name for path in sorted(good.glob("*.json"))]
    seeds = [(name, json.loads((good / name).read_text())) for name in names]

    def mutate(draw: random.Random, known: Sequence[Any]) -> tuple[str, bytes]:
        name, value = draw.choice(known)
        text = as_json(mutate_json(draw, [value])).encode()
        return name, mutate_bytes(draw, [text]) if draw.random() < 0.2 else text

    def attempt(given: tuple[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        (folder / given[0]).write_bytes(given[1])
        _build(folder)

    return Kind("model folder", seeds, mutate, attempt)
