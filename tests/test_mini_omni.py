"""The import of the published format, token for token against the original's own numbers.

Golden files: see tests/golden. ANYTALK_GOLDEN_DIR names a folder with more of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.errors import AnytalkError, ConfigError, TalkerError, WeightsError
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.mini_omni import import_mini_omni, talker_config
from anytalk.model.mini_omni_keys import MiniOmniConfig, expected_shapes, split_qkv
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import GridBatch

GOLDEN = Path(__file__).parent / "golden"
MORE = os.environ.get("ANYTALK_GOLDEN_DIR")
FILES = sorted(GOLDEN.glob("mini_omni_*.safetensors")) + (sorted(Path(MORE).glob("*.safetensors")) if MORE else [])
TASK_OF = {"A1A2": "A1A2", "A1T2": "A1T2", "ASR": "A1T1", "T1A2": "T1A2", "T1T2": "T1T2", "A1A2_batch": "A1A2"}
SMALL: dict[str, Any] = {
    "name": "Qwen2-0.5B",
    "block_size": 64,
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 4,
    "n_query_groups": 2,
    "head_size": 4,
    "intermediate_size": 24,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "add_qkv_bias": True,
    "bias": False,
    "text_vocab_size": 364,
    "audio_vocab_size": 74,
    "cat_audio_vocab_size": 222,
    "padded_vocab_size": 586,
    "whisper_adapter_dim": 6,
    "tie_word_embeddings": True,
}


def weights_of(config: MiniOmniConfig, seed: int) -> dict[str, Tensor]:
    """The recipe of the golden files: seeded normal numbers, scaled by the kind of tensor."""
    random = np.random.RandomState(seed)
    weights: dict[str, Tensor] = {}
    for key, shape in sorted(expected_shapes(config).items()):
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        w = random.standard_normal(shape).astype(np.float32)
        if key.endswith(("norm_1.weight", "norm_2.weight", "ln_f.weight", "audio_ln.weight")):
            w = 1 + np.float32(0.2) * w
        elif key.endswith("bias"):
            w = np.float32(0.2) * w
        elif "wte" in key or "lm_head" in key:
            w = np.float32(0.5) * w
        else:
            w = (w * 1.5 / np.sqrt(w.shape[-1])).astype(np.float32)
        weights[key] = torch.from_numpy(w)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
    return weights


def write_tokenizer(folder: Path) -> None:
    """Every byte is a token: as little of a Qwen2 tokenizer as loads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_published(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    write_tokenizer(folder)
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config))
    torch.save(weights, folder / "lit_model.pth")
    return folder


def small(**changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = {**SMALL, **changes}
    return config, weights_of(MiniOmniConfig.model_validate(config), seed=5)


# Parity with the original


@dataclass
class Golden:
    numbers: dict[str, Tensor]
    steps: int
    talker: Talker


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    with safe_open(str(request.param), "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    weights = weights_of(MiniOmniConfig.model_validate(config), int(metadata["seed"]))
    folder = tmp_path_factory.mktemp("mini_omni")
    import_mini_omni(write_published(folder / "published", config, weights), folder / "talker")
    talker = load_talker(folder / "talker", with_encoder=False)
    return Golden(load_file(str(request.param)), int(metadata["steps"]), talker)


def prompts_and_speech(golden: Golden, mode: str) -> tuple[list[Prompt], list[Tensor]]:
    talker, task = golden.talker, TASKS[TASK_OF[mode]]
    if not task.speech_in:
        prompt = talker.prompts.prompt(task, [Turn("user", "x" * golden.numbers["text_ids"].numel())])
        prompt.tokens[talker.model.layout.text_row, 1:-2] = golden.numbers["text_ids"].numpy()
        return [prompt], []
    features = golden.numbers["features"]
    embeds, columns, _ = talker.model.adapt_speech(features, torch.tensor([features.shape[1]]))
    prompt = talker.prompts.prompt(task, [Turn("user", speech_columns=int(columns[0]))])
    assert prompt.num_columns == features.shape[1] + 3
    prompts = [prompt, talker.prompts.text_only_row(prompt)] if mode == "A1A2_batch" else [prompt]
    return prompts, [embeds[0]]


@pytest.mark.parametrize("mode", TASK_OF)
def test_every_token_is_the_originals(golden: Golden, mode: str) -> None:
    talker, task = golden.talker, TASKS[TASK_OF[mode]]
    with torch.no_grad():
        prompts, speech = prompts_and_speech(golden, mode)
    options = DecodeOptions(rule=talker.config.decode_rule, max_columns=golden.steps)
    generation = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        options,
        prompts,
        speech,
        audio_out=task.audio_out,
    )
    columns = list(columns_of(generation))
    assert [column.text for column in columns] == golden.numbers[f"{mode}.text"].tolist()
    assert len(columns) == golden.steps
    if task.audio_out:
        audio = np.stack([column.audio for column in columns if column.audio is not None], axis=1)
        for stream in range(audio.shape[0]):
            assert audio[stream].tolist() == golden.numbers[f"{mode}.audio{stream}"].tolist()


@pytest.mark.parametrize("mode", TASK_OF)
@torch.no_grad()
def test_prefill_logits_are_the_originals(golden: Golden, mode: str) -> None:
    model = golden.talker.model
    prompts, speech = prompts_and_speech(golden, mode)
    spans = [[(s, e) for (s, _), e in zip(p.speech_spans, speech, strict=True)] for p in prompts]
    merged = model.embed(GridBatch(torch.from_numpy(np.stack([p.tokens for p in prompts])), spans))
    states = model.backbone(merged.backbone)
    text = model.text_logits(states.normed[:, -1:])[:, 0]
    assert text.argmax(dim=-1).tolist() == golden.numbers[f"{mode}.prefill_text_argmax"].tolist()
    torch.testing.assert_close(text[:, :64], golden.numbers[f"{mode}.prefill_text_logits"], rtol=0, atol=1e-4)
    audio = model.audio_logits(model.output_adapter(states)[:, -1:])[:, :, 0, :16]
    torch.testing.assert_close(audio, golden.numbers[f"{mode}.prefill_audio_logits"], rtol=0, atol=1e-4)


# What is written


def test_the_released_sizes_have_the_released_keys() -> None:
    sizes = {"n_layer": 24, "n_embd": 896, "n_head": 14, "head_size": 64, "intermediate_size": 4864}
    rows = {"text_vocab_size": 152000, "audio_vocab_size": 4160, "cat_audio_vocab_size": 29120}
    released = {**SMALL, **sizes, **rows, "padded_vocab_size": 181120, "whisper_adapter_dim": 768}
    shapes = expected_shapes(MiniOmniConfig.model_validate(released))
    assert len(shapes) == 198
    assert shapes["transformer.h.23.attn.attn.weight"] == (1152, 896)
    assert shapes["lm_head.weight"] == (181120, 896)
    assert sum(np.prod(s) for s in shapes.values()) == 694_294_400
    with_adapter = expected_shapes(MiniOmniConfig.model_validate({**released, "post_adapter": True}))
    assert len(with_adapter) == 248
    config = talker_config(MiniOmniConfig.model_validate(released), Path("mini-omni"))
    layout = config.grid.layout(text_vocab_size=151936, eos_id=7)
    assert (layout.eot, layout.pad_t, layout.input_t, layout.answer_t, layout.asr) == tuple(range(151936, 151941))
    assert (layout.eoa, layout.pad_a, layout.input_a, layout.answer_a) == (4096, 4097, 4098, 4099)
    assert layout.end_of_text_id == 151936
    assert config.encoder is not None
    assert config.encoder.options == {"model": "small", "pad_to_30s": True}


def test_qkv_rows_are_dealt_out_by_group() -> None:
    config = MiniOmniConfig.model_validate({**SMALL, "n_embd": 4, "n_head": 4, "head_size": 1})
    # Two groups of two query heads, one key head and one value head, each one row high.
    fused = torch.tensor([10, 11, 20, 30, 12, 13, 21, 31])
    q, k, v = split_qkv(fused, config)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([10, 11, 12, 13], [20, 21], [30, 31])


def test_transformers_alone_loads_the_backbone(tmp_path: Path) -> None:
    talker = import_mini_omni(write_published(tmp_path / "published", *small()), tmp_path / "talker")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "talker" / str(talker.config.backbone_folder))
    ids = torch.tensor([[1, 2, 3, 299]])
    backbone = talker.model.backbone
    ours = backbone.text_logits(backbone(backbone.embed_text(ids)).normed)
    assert lm.config.vocab_size == 300
    assert torch.equal(lm(input_ids=ids).logits, ours)
    assert talker.config.base is not None
    assert (backbone.licence, talker.config.base.licence) == ("MIT", "MIT")


def test_rows_go_to_their_tables(tmp_path: Path) -> None:
    config, weights = small(tie_word_embeddings=False)
    model = import_mini_omni(write_published(tmp_path / "published", config, weights), tmp_path / "talker").model
    wte, head = weights["transformer.wte.weight"], weights["lm_head.weight"]
    codes, specials = model.audio_embeddings.weight, model.special_tokens.audio
    assert torch.equal(model.special_tokens.text, wte[300:364])
    assert torch.equal(model.special_tokens.state_dict()["text_head"], head[300:364])
    # Stream 2 begins at row 364 + 2 * 74: 10 codes, then 64 specials.
    assert torch.equal(codes[2], wte[512:522])
    assert torch.equal(specials[2], wte[522:586])
    assert torch.equal(model.heads.state_dict()["rows"][1], head[438:512])


def text_and_audio_logits(talker: Talker) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(1, 5, 16, generator=generator)
    with torch.no_grad():
        states = talker.model.backbone(embeds)
        heard = talker.model.output_adapter(states)
        return talker.model.text_logits(states.normed), talker.model.audio_logits(heard)


@pytest.mark.parametrize("missing", ["lm_head.weight", "transformer.wte.weight"])
def test_tied_weights_may_lack_either_name(tmp_path: Path, missing: str) -> None:
    config, weights = small()
    both = import_mini_omni(write_published(tmp_path / "both", config, weights), tmp_path / "a")
    weights.pop(missing)
    one = import_mini_omni(write_published(tmp_path / "one", config, weights), tmp_path / "b")
    for ours, theirs in zip(text_and_audio_logits(one), text_and_audio_logits(both), strict=True):
        assert torch.equal(ours, theirs)


def test_when_tied_the_embedding_wins(tmp_path: Path) -> None:
    config, weights = small()
    same = import_mini_omni(write_published(tmp_path / "same", config, weights), tmp_path / "a")
    weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
    other = import_mini_omni(write_published(tmp_path / "other", config, weights), tmp_path / "b")
    for ours, theirs in zip(text_and_audio_logits(other), text_and_audio_logits(same), strict=True):
        assert torch.equal(ours, theirs)
    assert "heads" in (other.config.weights.parts if other.config.weights else [])


def test_untied_weights_need_both_names(tmp_path: Path) -> None:
    config, weights = small(tie_word_embeddings=False)
    weights.pop("lm_head.weight")
    with pytest.raises(WeightsError, match=r"1 missing \(lm_head.weight\)"):
        import_mini_omni(write_published(tmp_path / "published", config, weights), tmp_path / "talker")


@pytest.mark.parametrize("changes", [{"post_adapter": True, "post_adapter_layers": 1}, {"asr_adapter": "mlp"}])
def test_what_is_imported_is_what_is_loaded(tmp_path: Path, changes: dict[str, Any]) -> None:
    imported = import_mini_omni(write_published(tmp_path / "published", *small(**changes)), tmp_path / "talker")
    loaded = load_talker(tmp_path / "talker", with_encoder=False)
    for ours, theirs in zip(text_and_audio_logits(loaded), text_and_audio_logits(imported), strict=True):
        assert torch.equal(ours, theirs)
    features, lengths = torch.randn(1, 4, 6), torch.tensor([4])
    heard, before = (talker.model.adapt_speech(features, lengths)[0] for talker in (loaded, imported))
    assert torch.equal(heard, before)
    assert loaded.config.output_adapter.name == ("blocks" if "post_adapter" in changes else "none")


def test_eyes_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    config, weights = small(vision_adapter_dim=8)
    for name, shape in (("fc_1", (24, 8)), ("fc_2", (24, 8)), ("proj", (16, 24))):
        weights[f"vision_adapter.{name}.weight"] = torch.zeros(shape)
    with pytest.warns(UserWarning, match="vision adapter .* is left out"):
        talker = import_mini_omni(write_published(tmp_path / "published", config, weights), tmp_path / "talker")
    assert talker.model.backbone.width == 16


# Mistakes


def refused(tmp_path: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> AnytalkError:
    with pytest.raises(AnytalkError) as caught:
        import_mini_omni(write_published(tmp_path / "published", config, weights), tmp_path / "talker")
    assert not (tmp_path / "talker").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    return caught.value


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    config, weights = small()
    weights.pop("transformer.ln_f.weight")
    weights["lora.weight"] = torch.zeros(1)
    message = refused(tmp_path, config, weights).message
    assert "1 missing (transformer.ln_f.weight)" in message
    assert "1 unexpected (lora.weight)" in message


def test_a_post_adapter_that_the_configuration_does_not_know_is_refused(tmp_path: Path) -> None:
    _, weights = small(post_adapter=True)
    assert "unexpected (transformer.post_adapter.0.attn.attn.bias" in refused(tmp_path, SMALL, weights).message


def test_other_shapes_are_told(tmp_path: Path) -> None:
    config, weights = small()
    weights["transformer.ln_f.weight"] = torch.ones(15)
    assert "transformer.ln_f.weight is (15,), expected (16,)" in refused(tmp_path, config, weights).message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("surprise", 1, "surprise"),
        ("mlp_class_name", "GptNeoxMLP", "mlp_class_name"),
        ("asr_adapter", "conv", "asr_adapter"),
        ("padded_vocab_size", 600, "is not text and audio, 586"),
        ("cat_audio_vocab_size", 223, "no multiple"),
        ("head_size", 5, "don't make n_embd 16"),
        ("n_query_groups", 3, "can't share"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, field: str, value: Any, said: str) -> None:
    _, weights = small()
    error = refused(tmp_path, {**SMALL, field: value}, weights)
    assert isinstance(error, ConfigError)
    assert said in error.message


def test_missing_and_broken_files_are_signposts(tmp_path: Path) -> None:
    published = write_published(tmp_path / "published", *small())
    weights = (published / "lit_model.pth").read_bytes()
    for name, content, said in [
        ("lit_model.pth", weights[: len(weights) // 2], "truncated"),
        ("lit_model.pth", b"", "truncated"),
        ("lit_model.pth", None, "holds no lit_model.pth"),
        ("model_config.yaml", b"- 1\n", "not a mapping"),
        ("model_config.yaml", b"{", "can't be read as YAML"),
        ("model_config.yaml", None, "holds no model_config.yaml"),
    ]:
        if content is None:
            (published / name).unlink()
        else:
            (published / name).write_bytes(content)
        with pytest.raises(WeightsError, match=said):
            import_mini_omni(published, tmp_path / "talker")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    published = write_published(tmp_path / "published", *small())
    torch.save({"lm_head.weight": Path("x")}, published / "lit_model.pth")
    with pytest.raises(WeightsError, match="not a checkpoint of tensors"):
        import_mini_omni(published, tmp_path / "talker")
    torch.save({"step": 3}, published / "lit_model.pth")
    with pytest.raises(WeightsError, match="not a plain dictionary of tensors"):
        import_mini_omni(published, tmp_path / "talker")


def test_the_tokenizer_may_lie_elsewhere(tmp_path: Path) -> None:
    published = write_published(tmp_path / "published", *small())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (published / name).unlink()
    with pytest.raises(WeightsError, match="holds no tokenizer"):
        import_mini_omni(published, tmp_path / "talker")
    write_tokenizer(tmp_path / "elsewhere")
    talker = import_mini_omni(published, tmp_path / "talker", tokenizer=tmp_path / "elsewhere")
    tokenizer = load_talker(tmp_path / "talker", with_encoder=False).model.backbone.tokenizer
    assert tokenizer.decode(tokenizer.encode("Grüße!")) == "Grüße!"
    assert talker.folder == tmp_path / "talker"


def test_a_talker_is_replaced_only_on_request(tmp_path: Path) -> None:
    published = write_published(tmp_path / "published", *small())
    import_mini_omni(published, tmp_path / "talker")
    with pytest.raises(TalkerError, match="already exists"):
        import_mini_omni(published, tmp_path / "talker")
    again = import_mini_omni(published, tmp_path / "talker", overwrite=True)
    assert again.config.decode_rule == "original"
    card = (tmp_path / "talker" / "README.md").read_text()
    assert card.startswith("# talker\n")
    assert "Trained elsewhere" in card
