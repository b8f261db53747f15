"""Backbones on tiny random models: the contract, bit-equality with transformers, and what users get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins import BuildContext
from anytalk.plugins.contracts import BackboneStates
from anytalk.plugins.hf.loading import quiet_transformers
from anytalk.plugins.sources import resolve
from anytalk.plugins.testing.backbone import check_backbone, check_cache, check_causality
from anytalk_backbones.hf import HFBackbone
from anytalk_backbones.llama import LlamaBackbone
from anytalk_backbones.qwen2 import Qwen2Backbone
from anytalk_backbones.tiny import TinyBackbone

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "pad_token_id": 299,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = ["sliding_attention", "full_attention", "sliding_attention"]
# Model class, and what its config has beside SIZES.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"layer_types": WINDOW, "sliding_window": 3, "use_sliding_window": True}),
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 3}),
    "gpt_neox": ("GPTNeoX", {}),
    "phi": ("Phi", {}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "layer_types": WINDOW, "sliding_window": 3, "final_logit_softcapping": 2.0}),
    "cohere": ("Cohere", {"logit_scale": 0.3}),
    "granite": ("Granite", {"logits_scaling": 3.0, "embedding_multiplier": 5.0}),
    "gpt2": ("GPT2", {}),
}
CLASS_OF = {"GPT2": "GPT2LMHeadModel"}


def make_lm(family: str) -> Any:
    name, extra = FAMILIES[family]
    sizes = {
        key: value
        for key, value in SIZES.items()
        if not (name == "GPT2" and key in {"intermediate_size", "num_key_value_heads"})
    }
    with quiet_transformers():
        config = getattr(transformers, f"{name}Config")(**{**sizes, **extra})
        return getattr(transformers, CLASS_OF.get(name, f"{name}ForCausalLM"))(config).eval()


def make_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """Bytes with ChatML markup: 256 + 3 ids."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    base = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<|endoftext|>")
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    LlamaBackbone(make_lm("llama"), make_tokenizer(), "MIT").save_native(folder)
    return folder


def load(folder: Path | str, part: type[Any] = HFBackbone) -> Any:
    return part.build(part.Options(model=str(folder)), BuildContext())


# The contract


@pytest.mark.parametrize("chat", [True, False])
def test_tiny_keeps_the_contract(chat: bool) -> None:
    check_backbone("tiny", options={"chat": chat})


@pytest.mark.parametrize("family", FAMILIES)
def test_families_keep_the_contract(family: str) -> None:
    backbone = HFBackbone(make_lm(family), make_tokenizer())
    check_backbone(backbone)


def test_registered_names_build_from_folders(llama_folder: Path) -> None:
    check_backbone("llama", options={"model": str(llama_folder)})


class SeesTheFuture(TinyBackbone):
    def forward(self, embeds: torch.Tensor, cache: Any = None) -> BackboneStates:
        return super().forward(embeds + embeds.mean(dim=1, keepdim=True), cache)


class ForgetsItsCache(TinyBackbone):
    def forward(self, embeds: torch.Tensor, cache: Any = None) -> BackboneStates:
        states = super().forward(embeds, cache)
        if cache is not None and cache.length > 2:
            cache.crop(2)
        return states


def test_the_check_catches_a_backbone_that_sees_the_future() -> None:
    with pytest.raises(AssertionError, match="not causal"), torch.no_grad():
        check_causality(SeesTheFuture(TinyBackbone.Options()))


def test_the_check_catches_a_broken_cache() -> None:
    with pytest.raises(AssertionError, match="cache"), torch.no_grad():
        check_cache(ForgetsItsCache(TinyBackbone.Options()))


# Lossless


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_text_path_is_bit_identical_to_transformers(family: str) -> None:
    lm = make_lm(family)
    backbone = HFBackbone(lm, make_tokenizer())
    ids = torch.randint(0, 299, (2, 9))
    out = lm(input_ids=ids, output_hidden_states=True)
    states = backbone(backbone.embed_text(ids))
    assert torch.equal(backbone.text_logits(states.normed), out.logits)
    assert torch.equal(states.normed, out.hidden_states[-1])
    assert not backbone._decoder._forward_pre_hooks


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2", "granite"])
@torch.no_grad()
def test_copied_blocks_are_the_last_ones(family: str) -> None:
    lm = make_lm(family)
    backbone = HFBackbone(lm, make_tokenizer())
    ids = torch.randint(0, 299, (2, 9))
    middle = lm(input_ids=ids, output_hidden_states=True).hidden_states[1]
    expected = backbone(backbone.embed_text(ids)).normed
    assert torch.allclose(backbone.make_blocks(2, "copy").eval()(middle), expected, atol=1e-5)


def test_blocks_hold_no_vocabulary_and_all_of_them_train() -> None:
    backbone = HFBackbone(make_lm("qwen2"), make_tokenizer())
    blocks = backbone.make_blocks(2, "fresh")
    assert max(p.numel() for p in blocks.parameters()) <= 48 * 32
    assert all(p.requires_grad for p in blocks.parameters())
    assert all(p.requires_grad for p in backbone.parameters())


def test_fresh_blocks_may_be_more_than_the_backbone_has() -> None:
    backbone = HFBackbone(make_lm("gemma2"), make_tokenizer())
    hidden = torch.randn(1, 4, 32)
    assert backbone.make_blocks(5, "fresh")(hidden).shape == hidden.shape


@pytest.mark.parametrize(("num_blocks", "init"), [(0, "fresh"), (4, "copy"), (1, "clone")])
def test_impossible_blocks_are_refused(num_blocks: int, init: str) -> None:
    for backbone in (HFBackbone(make_lm("qwen2"), make_tokenizer()), TinyBackbone(TinyBackbone.Options(num_blocks=3))):
        with pytest.raises(ConfigError, match=f"{num_blocks} blocks with init '{init}'"):
            backbone.make_blocks(num_blocks, init)


def test_gradient_of_both_states_matches_transformers() -> None:
    lm = make_lm("llama").train()
    backbone = HFBackbone(lm, make_tokenizer())
    ids = torch.randint(0, 299, (1, 5))
    lm(input_ids=ids, use_cache=False).logits.square().sum().backward()
    expected = lm.model.layers[0].self_attn.q_proj.weight.grad.clone()
    lm.zero_grad()
    backbone.text_logits(backbone(backbone.embed_text(ids)).normed).square().sum().backward()
    assert torch.allclose(lm.model.layers[0].self_attn.q_proj.weight.grad, expected, rtol=1e-4, atol=1e-5)


# The tokenizer


def test_end_of_answer_is_what_ends_the_assistants_turn() -> None:
    chat, plain = (HFBackbone(make_lm("llama"), make_tokenizer(c)).tokenizer for c in (True, False))
    assert (chat.eos_id, plain.eos_id) == (258, 256)
    assert chat.has_chat_template
    assert not plain.has_chat_template
    with pytest.raises(WeightsError, match="no chat template"):
        plain.render_chat([{"role": "user", "content": "hi"}])


def test_rendered_chat_encodes_to_the_tokenizers_own_ids() -> None:
    base = make_tokenizer()
    tokenizer = HFBackbone(make_lm("llama"), base).tokenizer
    messages = [{"role": "user", "content": "How many bees?"}]
    own = base.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_rendered(tokenizer.render_chat(messages)) == list(own)


def test_a_template_that_refuses_a_role_says_so() -> None:
    base = make_tokenizer()
    base.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    tokenizer = HFBackbone(make_lm("llama"), base).tokenizer
    with pytest.raises(WeightsError, match="refuses messages of the roles system"):
        tokenizer.render_chat([{"role": "system", "content": "be brief"}])


def test_a_tokenizer_without_an_end_is_refused() -> None:
    base = make_tokenizer(chat=False)
    base.eos_token = None
    with pytest.raises(WeightsError, match="no end-of-text token"):
        HFBackbone(make_lm("llama"), base)


# The tiny one


def test_tiny_depends_on_its_seed_only() -> None:
    first = TinyBackbone(TinyBackbone.Options(seed=3)).state_dict()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = TinyBackbone(TinyBackbone.Options(seed=3)).state_dict()
    other = TinyBackbone(TinyBackbone.Options(seed=4)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@torch.no_grad()
def test_tiny_reaches_2048_steps() -> None:
    backbone = TinyBackbone(TinyBackbone.Options())
    states = backbone(torch.randn(1, 2048, 32))
    assert states.normed.isfinite().all()


def test_tiny_refuses_odd_heads_and_foreign_folders(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="width 32 can't be split into 3 heads"):
        TinyBackbone(TinyBackbone.Options(num_heads=3))
    with pytest.raises(WeightsError, match="holds no tiny backbone"):
        load(llama_folder, TinyBackbone)
    TinyBackbone(TinyBackbone.Options()).save_native(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsError, match="can't be loaded"):
        load(tmp_path / "tiny", TinyBackbone)


# Recognising and loading


def test_each_plugin_recognises_its_own(llama_folder: Path, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    TinyBackbone(TinyBackbone.Options()).save_native(tiny)
    parts = (Qwen2Backbone, LlamaBackbone, TinyBackbone, HFBackbone)
    named = {
        spec: [part for part in parts if part.recognises(resolve(spec))]
        for spec in (str(llama_folder), str(tiny), "Qwen/Qwen2-0.5B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B")
    }
    assert list(named.values()) == [[LlamaBackbone], [TinyBackbone], [Qwen2Backbone], [], [LlamaBackbone]]


@torch.no_grad()
def test_native_folder_loads_with_transformers_alone(llama_folder: Path) -> None:
    backbone = load(llama_folder)
    ids = torch.randint(0, 299, (1, 7))
    with quiet_transformers():
        lm = transformers.AutoModelForCausalLM.from_pretrained(llama_folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(llama_folder)
    assert torch.equal(lm(input_ids=ids).logits, backbone.text_logits(backbone(backbone.embed_text(ids)).normed))
    assert tokenizer("bees")["input_ids"] == backbone.tokenizer.encode("bees")
    assert backbone.licence == "MIT"


def test_context_decides_the_dtype(llama_folder: Path) -> None:
    backbone = HFBackbone.build(
        HFBackbone.Options(model="llama"), BuildContext(folder=llama_folder.parent, dtype="bfloat16")
    )
    assert backbone.embed_text(torch.tensor([[1]])).dtype is torch.bfloat16
    assert next(backbone.make_blocks(1, "fresh").parameters()).dtype is torch.bfloat16


# What users get wrong


def test_a_missing_path_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="doesn't exist"):
        load(tmp_path / "nowhere")


def test_a_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        load(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"but not a \.gguf"):
        load(tmp_path / "model.bin")
    (tmp_path / "model.gguf").write_bytes(b"x" * 64)
    with pytest.raises(WeightsError, match="is not a GGUF file"):
        load(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match="it is cut off"):
        load(tmp_path / "model.gguf")


def test_truncated_weights_are_one_sentence(llama_folder: Path) -> None:
    weights = llama_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="can't be loaded") as caught:
        load(llama_folder)
    assert "\n" not in caught.value.message
    assert "again" in caught.value.hint


def test_a_model_without_its_last_tensor_is_refused(llama_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(llama_folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, llama_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 tensors .* 'lm_head\.weight'"):
        load(llama_folder)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "BertModel"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration"),
        ({"model_type": "hubert"}, "hubert"),
    ],
)
def test_other_kinds_of_model_are_refused(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"is a {kind}, not a causal language model"):
        load(tmp_path)


def test_an_encoder_in_disguise_is_found_out(tmp_path: Path) -> None:
    with quiet_transformers():
        config = transformers.BertConfig(
            **{k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")},
            num_attention_heads=4,
            intermediate_size=48,
        )
        transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"final norm of a .bert. model"):
        load(tmp_path)


def test_an_unknown_model_type_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "martian"}))
    with pytest.raises(WeightsError, match=r"can't be loaded: .*martian"):
        load(tmp_path)


def test_a_hub_id_offline_says_what_works_without_network() -> None:
    with pytest.raises(WeightsError, match="hub can't be reached") as caught:
        load("nobody/no-such-model")
    assert ".gguf" in caught.value.hint
    assert "package:" in caught.value.hint


def test_recurrent_models_are_refused() -> None:
    lm = make_lm("llama")
    lm.config.layer_types = ["linear_attention"] * 3
    with pytest.raises(WeightsError, match="linear_attention"):
        HFBackbone(lm, make_tokenizer())


@pytest.mark.parametrize(("architecture", "expected"), [("llama", "llama"), ("qwen2", "qwen2"), ("phi3", "hf")])
def test_attach_chooses_by_the_architecture_of_a_gguf_file(tmp_path, architecture: str, expected: str) -> None:
    from gguf import GGUFWriter

    from anytalk.model.attach import choose_backbone
    from anytalk.plugins.registry import default_registry
    from anytalk.plugins.sources import resolve

    writer = GGUFWriter(tmp_path / "model.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert choose_backbone(resolve(str(tmp_path / "model.gguf")), default_registry()) == expected
