"""Faults of a model's folder that were read in silence, or answered by no sentence."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_backbones import CHATML, make_lm, make_tokenizer
from test_model_checks import attached, findings, folder_of

from anytalk.decode.sampling import GREEDY, SamplingOptions, choose
from anytalk.errors import AnytalkError, ConfigError, WeightsError
from anytalk.grid.chat import encode_chat
from anytalk.plugins.hf import HFTokenizer, template_trial
from anytalk.plugins.hf.template_trial import fault_of

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="templates are tried in a forked process")


def settings(model: Path, file: str, **changed: Any) -> None:
    found = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**found, **changed}))


def refused(tmp_path: Path, model: Path) -> AnytalkError:
    with pytest.raises(AnytalkError) as caught:
        attached(tmp_path, model)
    assert caught.value.hint
    assert not (tmp_path / "talker").exists()
    return caught.value


@NEEDS_FORK
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not come to an end"),
        ("{{ lipsum(n=99999) }}", "does not come to an end"),
        ("{{ 9 ** (9 ** 9) }}", "does not come to an end"),
        ("{{ 'x' * 10 ** 10 }}", "MB of memory"),
        ("{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "MB of memory"),
        ("{% for i in range(99999) %}abc{% endfor %}", "writes more than 200,000 characters"),
    ],
)
def test_a_template_without_end_is_one_sentence(tmp_path: Path, program: str, said: str) -> None:
    model = folder_of(tmp_path / "lm", program + CHATML)
    error = refused(tmp_path, model)
    assert "the model's chat template" in error.message
    assert said in error.message
    assert "grid.prompt=raw" in error.hint
    assert attached(tmp_path, model, "grid.prompt=raw").config.grid.prompt == "raw"
    assert said in findings(tmp_path)


@NEEDS_FORK
def test_a_trial_leaves_errors_to_those_who_ask() -> None:
    def fail() -> list[str]:
        raise ValueError

    assert fault_of(fail) is None
    assert fault_of(lambda: ["short"]) is None


@NEEDS_FORK
def test_a_trial_that_waits_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a lock was held by a thread that the child hasn't got."""
    monkeypatch.setattr(template_trial, "_WAIT_S", 0.2)
    assert fault_of(lambda: [str(time.sleep(60))]) is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML.replace("in messages", "in messages[::-1]"), "order of messages"),
        (CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}{{ m['content'] }}"), "more than once"),
        ("x" * 3_000 + CHATML, "question of one letter takes"),
    ],
)
def test_a_template_that_shows_another_conversation_is_refused(tmp_path: Path, template: str, said: str) -> None:
    assert template != CHATML
    error = refused(tmp_path, folder_of(tmp_path / "lm", template))
    assert isinstance(error, ConfigError)
    assert said in error.message


def test_a_template_that_repeats_speech_is_refused() -> None:
    base = make_tokenizer()
    base.chat_template = "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="twice"):
        encode_chat(HFTokenizer(base), [("user", [3])])


@pytest.mark.parametrize("ids", [[[258]], {"a": 1}, "258", 258.0, [True, None, -1, 10**9], []])
def test_end_tokens_of_odd_kinds_are_passed_over(tmp_path: Path, ids: Any) -> None:
    model = folder_of(tmp_path / "lm")
    settings(model, "generation_config.json", eos_token_id=ids)
    attached(tmp_path, model)
    assert "an answer ends with <|endoftext|>, <|im_end|>" in findings(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "is no JSON"), (b"[]", "no JSON object"), (b"\xff\xfe{\0}\0", "is no JSON"), (b"[" * 99_999, "")],
)
def test_settings_that_are_no_objects_are_refused(tmp_path: Path, file: str, data: bytes, said: str) -> None:
    model = folder_of(tmp_path / "lm")
    (model / file).write_bytes(data)
    error = refused(tmp_path, model)
    assert file in error.message
    assert said in error.message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}}, "not finite"),
        ({"logit_scale": "x"}, "can't read 16 tokens"),
        ({"hidden_act": "nope"}, "there is nothing called 'nope'"),
        ({"architectures": "LlamaModel"}, "is a LlamaModel, not a causal"),
        ({"max_position_embeddings": 9}, "question of one letter"),
    ],
)
def test_numbers_of_a_config_that_can_not_be(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    model = folder_of(tmp_path / "lm")
    settings(model, "config.json", **changed)
    assert said in refused(tmp_path, model).message


def test_attention_of_the_training_machine_is_not_needed(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "lm")
    settings(model, "config.json", _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    attached(tmp_path, model)


WEIGHT = "model.layers.0.mlp.down_proj.weight"


def rewritten(model: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str = WEIGHT) -> None:
    file = model / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors[name] = change(tensors[name]).contiguous()
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_packed_numbers_are_not_read_as_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    model = folder_of(tmp_path / "lm")
    rewritten(model, lambda values: values.to(dtype))
    assert f"'{WEIGHT}' as" in refused(tmp_path, model).message


def test_matrices_of_zeros_and_weights_that_say_nothing_are_found(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "lm")
    rewritten(model, torch.zeros_like)
    attached(tmp_path, model)
    assert f"1 of its matrices hold only zeros, first 'lm.{WEIGHT}'" in findings(tmp_path)
    assert "as likely as any other" not in findings(tmp_path)
    rewritten(model, torch.zeros_like, "lm_head.weight")
    attached(tmp_path, model)
    assert "as likely as any other" in findings(tmp_path)


@pytest.mark.parametrize("head", [b"<!DOCTYPE html><html>", b"\x80\x04\x95abc", b"PK\x03\x04"])
def test_what_is_only_called_safetensors(tmp_path: Path, head: bytes) -> None:
    model = folder_of(tmp_path / "lm")
    (model / "model.safetensors").write_bytes(head + bytes(500))
    assert "not a safetensors file" in refused(tmp_path, model).message


def in_pieces(folder: Path) -> tuple[Path, dict[str, str]]:
    make_lm("llama").save_pretrained(folder, max_shard_size="20KB")
    make_tokenizer().save_pretrained(folder)
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_pieces_of_weights(tmp_path: Path) -> None:
    model, places = in_pieces(tmp_path / "lm")
    index, first = model / "model.safetensors.index.json", min(places.values())
    attached(tmp_path, model)
    whole = index.read_text()
    for changed, said in (
        (json.dumps([]), "no JSON object"),
        ("{", "is no JSON"),
        (json.dumps({"metadata": {}}), "no weight_map"),
        (json.dumps({"weight_map": {**places, "x": "../base/model.safetensors"}}), "no weight_map"),
        (json.dumps({"weight_map": {**places, "x": 1}}), "no weight_map"),
        (json.dumps({"weight_map": {**places, "x": "model-9.safetensors"}}), "missing, first 'model-9.safetensors'"),
    ):
        index.write_text(changed)
        with pytest.raises(WeightsError, match=said):
            attached(tmp_path, model)
    index.write_text(whole)
    (model / first).unlink()
    with pytest.raises(WeightsError, match=f"missing, first '{first}'"):
        attached(tmp_path, model)
    index.unlink()
    with pytest.raises(WeightsError, match="pieces of weights, and no"):
        attached(tmp_path, model)


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(temperature=1.0, top_k=3)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_token_is_chosen_from_what_is_no_number(options: SamplingOptions, value: float) -> None:
    logits = torch.zeros(1, 9)
    logits[0, 4] = value
    with pytest.raises(WeightsError, match="not finite"):
        choose(logits, options, None, None)
