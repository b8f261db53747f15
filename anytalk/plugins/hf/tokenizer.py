"""A transformers tokenizer reduced to what anytalk asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from anytalk.errors import WeightsError
from anytalk.plugins.markup import MarkupCutter, whole_characters

_PROBE = "anytalkprobe"


class HFTokenizer:
    """Fulfils :class:`anytalk.plugins.contracts.TextTokenizer`.

    Args:
        base: A ``PreTrainedTokenizerBase``.

    Raises:
        WeightsError: a tokenizer that has no id to end an answer with.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self._cutter = MarkupCutter(_markup(base))
        self._eos_id = _end_of_answer(base)

    @property
    def eos_id(self) -> int:
        """The special token behind an assistant's turn of the chat template, else the tokenizer's eos."""
        return self._eos_id

    @property
    def has_chat_template(self) -> bool:
        """Whether the model came with one."""
        return bool(self.base.chat_template)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; the special tokens that it spells are text like any other, nothing is added."""
        pieces = self._cutter.pieces(whole_characters(text))
        return [token for piece in pieces for token in self.encode_rendered(piece)]

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of what the chat template wrote, special tokens recognised, nothing added."""
        return list(self.base(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without specials; ids that the tokenizer doesn't have (padded vocabularies) left out."""
        known = [i for i in ids if 0 <= i < len(self.base)]
        return str(self.base.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's own chat template, ready for its answer.

        Raises:
            WeightsError: no template, or one that refuses these messages (Gemma knows no system role).
        """
        return self.render_tools(messages, [])

    def render_tools(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """As :meth:`render_chat`, with functions (WeightsError: as there)."""
        if not self.has_chat_template:
            raise WeightsError("this model has no chat template", "use a chat (instruct) model, or plain text")
        try:
            options: dict[str, Any] = {"tools": list(tools)} if tools else {}
            return str(
                self.base.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **options)
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(m.get("role", "?") for m in messages)
            raise WeightsError(
                f"the model's chat template refuses messages of the roles {roles}: {error}",
                "start with a 'user' message; some models know no 'system' role",
            ) from None


def _markup(base: Any) -> list[str]:
    """Spellings that people may not use: special tokens, and other added ones that the chat template writes."""
    template = str(base.chat_template or "")
    added = base.added_tokens_decoder.values()
    return [t.content for t in added if t.content.strip() and (t.special or t.content in template)]


def _end_of_answer(base: Any) -> int:
    added = base.added_tokens_decoder
    for token_id in base(_after_answer(base), add_special_tokens=False)["input_ids"]:
        if token_id in added and added[token_id].special:
            return int(token_id)
    if base.eos_token_id is None:
        raise WeightsError(
            "the model's tokenizer has no end-of-text token, so an answer would never end",
            "set eos_token in its tokenizer_config.json",
        )
    return int(base.eos_token_id)


def _after_answer(base: Any) -> str:
    """What the chat template writes behind an assistant's message; empty without a template."""
    if not base.chat_template:
        return ""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    try:
        rendered = str(base.apply_chat_template(messages, tokenize=False))
    except jinja2.TemplateError:
        return ""
    return rendered.rpartition(_PROBE)[2]
