"""What attach finds out about a model: what can't be used is refused with a sentence, what is odd is said."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import TINY_PARTS
from talkers import make_talker
from test_backbones import CHATML, make_lm, make_tokenizer

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import ConfigError, WeightsError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.attach import attach
from anytalk.model.config import read_config
from anytalk.model.talker import Talker
from anytalk.plugins import gguf_header
from anytalk.plugins.hf import HFTokenizer

PARTS = CHATML.replace("message['content']", "message['content'][0]['text']").replace(
    "m['content']", "m['content'][0]['text']"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)


def folder_of(folder: Path, template: Any = CHATML, lm: Any = None, extra: list[str] | None = None) -> Path:
    tokenizer, lm = make_tokenizer(), make_lm("llama") if lm is None else lm
    tokenizer.chat_template = template
    tokenizer.add_tokens(extra or [])
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def attached(tmp_path: Path, model: Path, *settings: str) -> Talker:
    return attach(str(model), tmp_path / "talker", assignments=[*TINY_PARTS, *settings], overwrite=True)


def shown(talker: Talker, *turns: Turn) -> str:
    """The prompt as text, with its markup."""
    prompt = talker.prompts.prompt(T1T2, turns)
    ids = prompt.tokens[talker.model.layout.text_row].tolist()
    return str(talker.model.backbone.tokenizer.base.decode(ids))


def findings(tmp_path: Path) -> str:
    base = read_config(tmp_path / "talker").base
    assert base is not None
    return "\n".join(base.findings)


def test_an_answer_ends_at_any_end_token(tmp_path: Path) -> None:
    lm = make_lm("llama")
    lm.generation_config.eos_token_id = [256, 258]
    talker = attached(tmp_path, folder_of(tmp_path / "lm", lm=lm))
    assert "an answer ends with <|endoftext|>, <|im_end|>" in findings(tmp_path)
    backbone, script = talker.model.backbone, iter([72, 105, 256, 66])

    def scripted(normed: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*normed.shape[:-1], backbone.text_vocab_size)
        logits[..., next(script)] = 1.0
        return logits

    talker.model.text_logits = scripted  # type: ignore[method-assign]
    *_, done = Session(talker).ask(text="hi", task=T1T2, options=DecodeOptions(max_columns=9))
    assert isinstance(done, AnswerDone)
    assert (done.finish_reason, done.num_columns) == ("stop", 2)


def test_an_answer_ends_at_an_end_token_that_is_not_called_special(tmp_path: Path) -> None:
    """As in models that were trained further with tokens of their own."""
    lm = make_lm("llama")
    template = CHATML.replace("<|im_end|>", "<|end_of_turn|>")
    backbone = attached(tmp_path, folder_of(tmp_path / "lm", template, lm, ["<|end_of_turn|>"])).model.backbone
    assert backbone.tokenizer.eos_id == 259
    assert 259 in backbone.end_ids
    assert "<|end_of_turn|>" in findings(tmp_path)


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")])
def test_other_marks_of_thoughts(tmp_path: Path, marks: tuple[str, str]) -> None:
    backbone = attached(tmp_path, folder_of(tmp_path / "lm", extra=[*marks])).model.backbone
    assert backbone.thought_ids == (259, 260)
    assert "thoughts are not spoken" in findings(tmp_path)


def test_a_template_of_parts_holds_the_question(tmp_path: Path) -> None:
    assert PARTS != CHATML
    talker = attached(tmp_path, folder_of(tmp_path / "lm", PARTS))
    assert "What is it?<|im_end|>" in shown(talker, Turn("user", "What is it?"))
    assert "lists of parts" in findings(tmp_path)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML.replace("['role']", "['role'] + 1"), "chat template refuses"),
        ("{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_end|>{% endfor %}", "leaves out the text of messages"),
        (ALTERNATES.replace("m['content'] | trim", "m['content'][:3]"), "leaves out the text of messages"),
        (ALTERNATES.replace("m['content'] | trim", "m['content'] | e"), "leaves out the text of messages"),
        ("{% for m in messages %}{{ m['content'] }}<beyond>{% endfor %}", "no embedding"),
    ],
)
def test_a_template_that_loses_the_question_is_refused(tmp_path: Path, template: str, said: str) -> None:
    lm = make_lm("llama")
    room = lm.config.vocab_size - 259
    model = folder_of(tmp_path / "lm", template, lm, [*(f"<{i}>" for i in range(room)), "<beyond>"])
    with pytest.raises(ConfigError, match=said) as caught:
        attached(tmp_path, model)
    assert "grid.prompt=raw" in str(caught.value)
    assert not (tmp_path / "talker").exists()
    assert attached(tmp_path, model, "grid.prompt=raw").config.grid.prompt == "raw"


def test_named_templates(tmp_path: Path) -> None:
    base = make_tokenizer()
    base.chat_template = {"default": CHATML, "tool_use": "x"}
    assert HFTokenizer(base).has_chat_template
    base.chat_template = {"rag": CHATML, "tool_use": CHATML}
    tokenizer = HFTokenizer(base)
    assert not tokenizer.has_chat_template
    assert tokenizer.findings == (
        "none of its chat templates (rag, tool_use) is called 'default': it is asked without one",
    )


def test_system_text_is_folded_where_the_template_knows_no_system_role(tmp_path: Path) -> None:
    talker = attached(tmp_path, folder_of(tmp_path / "lm", ALTERNATES), "grid.system=Be brief.")
    assert shown(talker, Turn("user", "Hello")) == "<|im_start|>user\nBe brief.\n\nHello<|im_end|>\n<|im_start|>model\n"
    own = shown(talker, Turn("system", "Be long."), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    assert own.startswith("<|im_start|>user\nBe long.\n\na<|im_end|>\n<|im_start|>model") or "Be long.\n\na" in own
    assert "has no system role" in findings(tmp_path)


def test_arguments_of_the_template_are_settings(tmp_path: Path) -> None:
    template = CHATML + "{% if enable_thinking is defined and not enable_thinking %}(at once){% endif %}"
    model = folder_of(tmp_path / "lm", template)
    assert not shown(attached(tmp_path, model), Turn("user", "hi")).endswith("(at once)")
    talker = attached(tmp_path, model, "grid.template.enable_thinking=false")
    assert shown(talker, Turn("user", "hi")).endswith("(at once)")


def test_added_tokens_without_an_embedding_are_text(tmp_path: Path) -> None:
    lm = make_lm("llama")
    room = lm.config.vocab_size - 259
    talker = attached(tmp_path, folder_of(tmp_path / "lm", lm=lm, extra=[*(f"<{i}>" for i in range(room)), "<pad>"]))
    tokenizer = talker.model.backbone.tokenizer
    ids = tokenizer.encode("a <pad> b")
    assert max(ids) < lm.config.vocab_size
    assert tokenizer.decode(ids) == "a <pad> b"
    assert "first '<pad>'" in findings(tmp_path)
    with pytest.raises(WeightsError, match="don't belong together"):
        HFTokenizer(make_tokenizer(), vocab_size=100)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "lm")
    file = model / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"not finite, first in 'lm\.model\.norm\.weight'"):
        attached(tmp_path, model)
    assert not (tmp_path / "talker").exists()


def test_tensors_that_are_left_over_are_said(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "lm")
    file, odd = model / "model.safetensors", "model.layers.0.self_attn.q_proj.bias"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({**tensors, odd: torch.ones(32)}, file, metadata={"format": "pt"})
    attached(tmp_path, model)
    assert f"1 tensors of its files, first '{odd}'" in findings(tmp_path)


def test_a_models_own_code_is_not_run_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = folder_of(tmp_path / "lm"), tmp_path / "ran"
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "zebra", "auto_map": {"AutoConfig": "zebra.ZebraConfig"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "zebra.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    with pytest.raises(WeightsError, match="its own Python code") as caught:
        attached(tmp_path, model)
    assert "trust_remote_code=true" in str(caught.value)
    assert not ran.exists()


# GGUF headers


def text(said: str) -> bytes:
    return struct.pack("<Q", len(said)) + said.encode()


def header(body: bytes, count: int = 1, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, count) + body


LIST = text("general.x") + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header(struct.pack("<Q", 1 << 48)), "a text of 281474976710656 bytes"),
        (header(struct.pack("<Q", 1 << 63)), "a text of"),
        (header(LIST + struct.pack("<IQ", 8, 1 << 40)), "a list of 1099511627776 values"),
        (header(LIST + struct.pack("<IQ", 9, 1) * 3000), "unknown type 9"),
        (header(text("general.x") + struct.pack("<I", 77)), "unknown type 77"),
        (header(text("general.x"), count=1 << 60), "can't be read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 2), "big-endian"),
        (header(b"", version=1), "of version 1"),
        (header(b"", version=4), "of version 4"),
        (b"GGUF\3\0\0", "cut off"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<html>404</html>" * 3, "web page"),
        (b"tjgg" + bytes(40), "llama.cpp"),
        (b"", "not a GGUF file"),
    ],
)
def test_a_header_that_lies_is_one_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "odd.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=said):
        gguf_header.read_header(tmp_path / "odd.gguf")


def test_a_talker_of_other_parts_has_nothing_to_find() -> None:
    backbone = make_talker().model.backbone
    assert backbone.findings == ()
    assert backbone.end_ids == {backbone.tokenizer.eos_id}
