"""Reduces a transformers tokenizer to what anytalk needs of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anytalk.errors import WeightsError
from anytalk.plugins.hf.template_trial import fault_of
from anytalk.plugins.markup import MarkupCutter, whole_characters

# A word that templates neither write themselves nor change.
_PROBE = "anytalkprobe"
_LOOKS_LIKE_MARKUP = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


class HFTokenizer:
    """Implements :class:`anytalk.plugins.contracts.TextTokenizer`.

    Args:
        base: A ``PreTrainedTokenizerBase``.
        vocab_size: The number of rows of the model's embedding.

    Raises:
        WeightsError: it has no id to end an answer with, or more ordinary tokens than the embedding has rows.
    """

    def __init__(self, base: Any, vocab_size: int | None = None) -> None:
        self.base = base
        # Tokens without an embedding must not be produced, so their spellings are split like markup.
        beyond, self._markup = _beyond(base, vocab_size), _markup(base)
        self._cutter = MarkupCutter({*self._markup, *beyond})
        self._reserved = {*self._markup.values(), *base.convert_tokens_to_ids(beyond)}
        self._in_parts = self._folds_system = False
        self._fault = fault_of(self._trial) if self.has_chat_template else None
        if self.has_chat_template and self._fault is None:
            # Some templates want content as a list of parts, others as text: try text first.
            self._in_parts = not self._shows("user")
            if self._in_parts and not self._shows("user"):  # neither works, which :mod:`anytalk.model.checks` reports
                self._in_parts = False
            # Templates without a system role (Gemma) raise or drop it; then it goes into the first question.
            self._folds_system = self._shows("user") and not self._shows("system", "user")
        self._eos_id = self._end_of_answer()
        self.findings = tuple(self._found(beyond))
        """What is unusual about it, one sentence each."""

    def ids_of(self, first: str, last: str) -> tuple[int, int] | None:
        """Return the ids of two added tokens; None if one is missing."""
        ids = {token.content: int(number) for number, token in self.base.added_tokens_decoder.items()}
        return (ids[first], ids[last]) if first in ids and last in ids else None

    def _found(self, beyond: Sequence[str]) -> Iterator[str]:
        if isinstance(self.base.chat_template, dict) and not self.has_chat_template:
            names = ", ".join(self.base.chat_template)
            yield f"none of its chat templates ({names}) is called 'default': it is asked without one"
        if self._fault is not None:
            yield f"its chat template {self._fault}: it is asked without one"
        if self._in_parts:
            yield "its chat template reads messages as lists of parts"
        if "enable_thinking" in str(self.base.chat_template):
            yield "its template can switch thinking off: --set grid.template.enable_thinking=false"
        if self._folds_system:
            yield "its chat template has no system role: system texts are put in front of the first question"
        if beyond:
            yield f"{len(beyond)} of its added tokens have no embedding, first '{beyond[0]}': they are read as text"

    @property
    def eos_id(self) -> int:
        """Return the special token after an assistant's turn in the chat template, or the tokenizer's eos."""
        return self._eos_id

    @property
    def has_chat_template(self) -> bool:
        """Return whether the model came with a chat template."""
        return bool(self.template)

    @property
    def template(self) -> str:
        """Return the program of its chat template; empty where there is none."""
        template = self.base.chat_template
        return str((template.get("default") if isinstance(template, dict) else template) or "")

    def encode(self, text: str) -> list[int]:
        """Encode `text`; special tokens that it spells are plain text, and nothing is added."""
        return [token for piece in self._cutter.pieces(text) for token in self._encode_piece(piece)]

    def _encode_piece(self, text: str) -> list[int]:
        ids = self.encode_rendered(text)
        # A single character can't be split any further.
        if len(text) < 2 or self._reserved.isdisjoint(ids):
            return ids
        # The tokenizer's normaliser turned it into markup, for example from full-width letters or another case.
        return [token for character in text for token in self.encode_rendered(character)]

    def encode_rendered(self, text: str) -> list[int]:
        """Encode what the chat template wrote; special tokens are recognised, and nothing is added."""
        return list(self.base(whole_characters(text), add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids` without special tokens and ids that the tokenizer lacks (padded vocabularies)."""
        known = [i for i in ids if 0 <= i < len(self.base)]
        return str(self.base.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Render messages with the model's own chat template, up to where its answer begins.

        Args:
            messages: Each with a ``role`` and ``content``.
            arguments: The template's own arguments.

        Raises:
            WeightsError: there is no template, or it fails on these messages.
        """
        return self._rendered(messages, arguments)

    def render_tools(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """Render messages like :meth:`render_chat`, with functions that the model may call (WeightsError: as there)."""
        return self._rendered(messages, {"tools": list(tools)} if tools else {})

    def _rendered(self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
        if not self.has_chat_template:
            raise WeightsError("this model has no chat template", "use a chat (instruct) model, or plain text")
        if self._fault is not None:
            raise WeightsError(f"the model's chat template {self._fault}", "ask without it: --set grid.prompt=raw")
        try:
            return self._render(messages, add_generation_prompt=True, **arguments)
        except Exception as error:  # a template is the model authors' program and may raise anything
            roles = ", ".join(m.get("role", "?") for m in messages)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise WeightsError(
                f"the model's chat template refuses messages of the roles {roles}: {reason}",
                "let user and assistant take turns, or ask without a template: --set grid.prompt=raw",
            ) from None

    def _render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> str:
        shown: list[Mapping[str, Any]] = list(messages)
        if self._folds_system and shown and shown[0]["role"] == "system":
            system, *rest = shown
            first, rest = (rest[0], rest[1:]) if rest and rest[0]["role"] == "user" else ({"content": ""}, rest)
            shown = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        if self._in_parts:
            shown = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in shown]
        return str(self.base.apply_chat_template(shown, tokenize=False, **arguments))

    def _trial(self) -> list[str]:
        """Render what will be asked of the template, as far as that is known."""
        asked = {"role": "user", "content": _PROBE}
        parts = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        answered = {"role": "assistant", "content": "an answer " * 50}
        chats: list[list[dict[str, Any]]] = [
            [asked],
            [parts],
            [{"role": "system", "content": _PROBE}, asked],
            [asked, answered],
            [asked, answered, asked],
        ]
        found = []
        for chat in chats:
            try:
                found.append(str(self.base.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)))
            except MemoryError:
                raise
            except Exception:  # as above
                continue
        return found

    def _shows(self, *roles: str) -> bool:
        """Return whether the template's output contains the content of messages of these roles."""
        said = [f"{_PROBE}{number}" for number, _ in enumerate(roles)]
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        try:
            rendered = self._render(messages, add_generation_prompt=True)
        except Exception:  # as above
            return False
        # A template that prints a list as it is shows the words too, so its quoted key must not appear.
        return all(text in rendered for text in said) and "'text'" not in rendered

    def _end_of_answer(self) -> int:
        base, ends = self.base, set(self._markup.values())
        # The template shows how the model ends a turn; eos_token often ends only plain text.
        for token_id in self.encode_rendered(self._after_answer()):
            if token_id in ends:
                return token_id
        if base.eos_token_id is None:
            raise WeightsError(
                "the model's tokenizer has no end-of-text token, so an answer would never end",
                "set eos_token in its tokenizer_config.json",
            )
        return int(base.eos_token_id)

    def _after_answer(self) -> str:
        """Return what the chat template writes after an assistant's message; empty without a template."""
        if not self.has_chat_template or self._fault is not None:
            return ""
        try:
            rendered = self._render([{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}])
        except Exception:  # as above
            return ""
        return rendered.rpartition(_PROBE)[2]


def _beyond(base: Any, vocab_size: int | None) -> list[str]:
    """List the added tokens without a row in the embedding; WeightsError if ordinary tokens have none."""
    if vocab_size is None or len(base) <= vocab_size:
        return []
    added = {token.content for token in base.added_tokens_decoder.values()}
    beyond = [token for token, number in base.get_vocab().items() if number >= vocab_size]
    if not added.issuperset(beyond):
        raise WeightsError(
            f"the tokenizer has {len(base)} tokens, and the embedding of the model {vocab_size} rows: they don't belong"
            " together",
            "give the model's folder the tokenizer that the model was trained with",
        )
    return sorted(beyond)


def _markup(base: Any) -> dict[str, int]:
    """Map the spellings that people may not use to ids: special tokens, and added ones that look like markup (Qwen's

    Other added tokens are ordinary text in some models, such as words or runs of blanks.
    """
    tokens = base.added_tokens_decoder.items()
    return {t.content: int(i) for i, t in tokens if t.special or _LOOKS_LIKE_MARKUP.fullmatch(t.content)}
