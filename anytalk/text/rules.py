"""Defines the rules of ``anytalk data clean``: limits as data, and one small function for each reason to drop a text.

A rule looks at a text as it was written (:data:`RAW_RULES`) or as it will be said (:data:`SPOKEN_RULES`), and returns
what is wrong with it, or "".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pydantic
import regex
from pydantic import Field

from anytalk.errors import ConfigError, DataError
from anytalk.model.config import override
from anytalk.plugins.settings import read_yaml, validated
from anytalk.text.markdown import Reading
from anytalk.text.normalise import DateOrder, find_emoji

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl"]
Side = Literal["question", "answer"]


class Rules(pydantic.BaseModel):
    """Says which texts are dropped, and how the others are written down."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    code: bool = Field(True, description="Drop code: fences, indented blocks, HTML/XML tags, shell and source lines.")
    maths: bool = Field(True, description="Drop LaTeX and formulas with letters; sums of plain numbers are spelled.")
    table: bool = Field(True, description="Drop tables.")
    address: bool = Field(True, description="Drop bare URLs and e-mail addresses; the text of a link is kept.")
    prompt_leftovers: bool = Field(True, description="Drop chat markup and role names such as '### Response:'.")
    assistant_talk: bool = Field(False, description="Drop answers that talk of being an AI language model.")
    max_emoji: int = Field(3, ge=0, description="Drop texts with more emoji; fewer are removed.")
    max_list_items: int = Field(5, ge=0, description="Drop texts with more list items; shorter lists become sentences.")
    max_word_chars: int = Field(30, gt=0, description="Drop texts with a longer word (keys, paths, base64).")
    unspeakable: bool = Field(True, description="Drop texts with characters that no voice reads, such as { or |.")
    min_question_s: float = Field(0.3, ge=0, description="Drop questions that take less time to say, in seconds.")
    max_question_s: float = Field(20.0, gt=0, description="Drop questions that take more time to say, in seconds.")
    min_answer_s: float = Field(0.3, ge=0, description="Drop answers that take less time to say, in seconds.")
    max_answer_s: float = Field(30.0, gt=0, description="Drop answers that take more time to say, in seconds.")
    chars_per_second: float = Field(
        20.0, gt=0, description="Pace of speech within a phrase (measured: docs/cleaning.md)."
    )
    pause_s: float = Field(0.25, ge=0, description="Added once per text and for each comma, semicolon and colon.")
    language: Language | None = Field(
        "en", description="Drop texts in another language; null keeps all. Numbers are spelled in English only."
    )
    min_script_share: float = Field(0.9, ge=0, le=1, description="Least share of Latin letters, if a language is set.")
    duplicates: Literal["question", "pair", "keep"] = Field(
        "question", description="Drop rows whose question (or question and answer) was kept before."
    )
    date_order: DateOrder = Field("month first", description="How 3/5/2024 is read.")


@dataclass(frozen=True)
class Fault:
    """Says why a row is dropped."""

    rule: str  # name of the rule
    reason: str  # what it found


def read_rules(path: Path | None, assignments: Sequence[str] = ()) -> Rules:
    """Read rules from a YAML file, and change them by ``field=value`` settings.

    Raises:
        DataError: the file doesn't exist or isn't YAML.
        ConfigError: some fields are wrong; the error lists all of them.
    """
    data: Any = {}
    if path is not None:
        if not path.exists():
            raise DataError(f"'{path}' doesn't exist", "leave --rules out for the defaults")
        data = read_yaml(path, DataError) or {}
    hint = f"rules: {', '.join(Rules.model_fields)} (docs/cleaning.md)"
    if not isinstance(data, dict):
        raise ConfigError(f"'{path}' is a {type(data).__name__}; a mapping of rules is expected", hint)
    return validated(Rules, override(data, list(assignments)), "the rules are not well-formed", hint)


# Whole lines of code: definitions, imports, declarations, shell commands, assignments of calls.
_CODE_LINES = regex.compile(
    r"""^\s*(?:
        (?:def|class)\s\w+\s*[(:] | import\s[\w.]+(?:\sas\s\w+|;|\s*$) | from\s[\w.]+\simport\b | \#include\b | \#!/
      | (?:public|private|static|void|int|var|let|const|function)\s.*[({;=]
      | \$\s[a-z]\w*
      | (?:sudo|pip3?\sinstall|npm|git\s(?:clone|commit|push|pull|add)|docker|apt(?:-get)?\s|curl\s-|chmod)\b
      | [{}]\s*;?\s*$ | .*\w[({].*;\s*$ | \w[\w.]*\s*=\s*\w[\w.]*[(\[{].* | \w[\w.]*\(.*\)\s*;?\s*$
    )""",
    regex.VERBOSE | regex.MULTILINE,
)
# Pieces of code inside prose: SQL, calls, comparisons, operators, closing tags.
_CODE_PIECES = regex.compile(
    r"\bSELECT\b.+\bFROM\b|\bINSERT INTO\b|\bCREATE TABLE\b|\w\(\)|\w\.\w+\(\w*|[=!]==?=|&&|\|\||\+=|=>|</|/>|::\w"
)
# A dollar sign is LaTeX only around a formula or a single letter; amounts of money have one too.
_LATEX = regex.compile(
    r"\$\$|\\[(\[]|\\(?:begin|end|frac|sqrt|sum|int|prod|lim|cdot|times|text|left|right|alpha|beta|pi|theta|infty)\b"
    r"|(?<!\w)\$(?=[^$\n]*[\\^_{}=])[^$\n]{1,80}\$(?!\d)|(?<!\w)\$[A-Za-z]\$"
)
# A and I are words, so "a = 5" and "I = ..." don't count as formulas.
_FORMULA = regex.compile(
    r"[∑∏∫√∂∇∞∈∉∀∃⊂⊆∪∩≡∝⇒⇔]|(?<![\w'])\p{L}\s?\^|\)\s?\^|(?<![\w'])[A-Za-z]\([a-z]\)\s*=|(?<![\w'])[b-zB-HJ-Z]\s*=\s*\S"
    r"|\b\d+[xyzn]\s*[-+=*/^]|(?<![\w'])[xyznab][²³]"
)
# Two lines with bars or tabs make a table, one may be prose.
_TEXT_TABLE = regex.compile(
    r"^[^\n|]*\|[^\n|]*\|.*\n.*\|.*\||^\+-{2,}\+|^[^\n\t]+\t[^\n\t]+\t.*\n[^\n\t]+\t[^\n\t]+\t", regex.MULTILINE
)
# The possessive ++ doesn't backtrack: words of thousands of letters took seconds without it.
_ADDRESS = regex.compile(
    r"\b(?:https?|ftp)://\S+|\bwww\.\S+|(?<![\w.+-])[\w.+-]++@[\w-]+\.\w+|\b[\w-]++\.(?:com|org|net|io|edu|gov)/\S*",
    regex.IGNORECASE,
)
_LEFTOVERS = regex.compile(
    r"^\s*(?:\#+\s*)?(?:human|user|assistant|system|instruction|response|input|output|ai|bot)\s*:|<\|\w+\|>|\[/?INST\]|</?s>",
    regex.IGNORECASE | regex.MULTILINE,
)
_ASSISTANT_TALK = regex.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bI(?:'m| am) (?:just )?an? (?:AI|language model)\b|\bOpenAI\b|\bChatGPT\b",
    regex.IGNORECASE,
)
_UNSPEAKABLE = regex.compile(r"[^\p{L}\p{M}\s.,;:!?'\"()-]")
_UNSPEAKABLE_ELSEWHERE = regex.compile(r"[^\p{L}\p{M}\p{N}\s.,;:!?'\"()%&+€$£°/-]")
_GAP = regex.compile(r"[\s-]+")
_PAUSE = regex.compile(r"[,;:](?=\s)")
_WORD = regex.compile(r"\p{L}+")
_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Script=Latin}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": _words("the and of to is are was that it you for with this what how have has be not or can does"),
    "de": _words("der die das und ist nicht ein eine einen zu den mit sich auf für sie wir ich wie wo sind"),
    "fr": _words("le la les des est et une un du dans que qui pour pas avec sur je vous nous quelle sont"),
    "es": _words("el la los las es y una un de que en por con para no se cuál cómo dónde está son"),
    "it": _words("il lo la gli è e una un di che per con non sono del della nel qual come dove"),
    "pt": _words("o os as é e uma um de que em por com para não do da no na qual como são"),
    "nl": _words("de het een en is van niet dat op te met voor zijn ik je wat hoe waar wij aan"),
}
"""Words of each language that say little and occur everywhere; they decide only if another language has more."""

_MIN_FOREIGN_WORDS = 3


def find_code(raw: str, reading: Reading, rules: Rules) -> str:
    """Find code of any kind."""
    found = _CODE_LINES.search(raw) or _CODE_PIECES.search(raw)
    return _quoted(reading.code or (found.group() if found else "")) if rules.code else ""


def find_maths(raw: str, reading: Reading, rules: Rules) -> str:
    """Find LaTeX, or a formula with letters in it."""
    found = _LATEX.search(raw) or _FORMULA.search(raw)
    return _quoted(found.group()) if found and rules.maths else ""


def find_table(raw: str, reading: Reading, rules: Rules) -> str:
    """Find a Markdown table, or columns drawn with bars or tabs."""
    found = _TEXT_TABLE.search(raw)
    return _quoted(reading.table or (found.group() if found else "")) if rules.table else ""


def find_address(raw: str, reading: Reading, rules: Rules) -> str:
    """Find a URL or an e-mail address that would have to be spoken."""
    found = _ADDRESS.search(reading.text)
    return _quoted(found.group()) if found and rules.address else ""


def find_leftovers(raw: str, reading: Reading, rules: Rules) -> str:
    """Find leftover markup of a chat template."""
    found = _LEFTOVERS.search(raw)
    return _quoted(found.group()) if found and rules.prompt_leftovers else ""


def find_assistant_talk(raw: str, reading: Reading, rules: Rules) -> str:
    """Find an answer in which the assistant talks about being a program."""
    found = _ASSISTANT_TALK.search(raw)
    return _quoted(found.group()) if found and rules.assistant_talk else ""


def find_many_emoji(raw: str, reading: Reading, rules: Rules) -> str:
    """Find more emoji than can be removed without loss."""
    count = len(find_emoji(raw))
    return f"{count} emoji, at most {rules.max_emoji}" if count > rules.max_emoji else ""


def find_long_list(raw: str, reading: Reading, rules: Rules) -> str:
    """Find a list that is too long to be read aloud."""
    count = reading.list_items
    return f"{count} list items, at most {rules.max_list_items}" if count > rules.max_list_items else ""


def find_long_word(raw: str, reading: Reading, rules: Rules) -> str:
    """Find a "word" that can't be one: a key, a path, base64."""
    longest = max(_GAP.split(reading.text), key=len)
    too_long = len(longest) > rules.max_word_chars
    return f"a word of {len(longest)} characters: {_quoted(longest, 20)}" if too_long else ""


def find_empty(said: str, side: Side, rules: Rules) -> str:
    """Find a text without anything to say."""
    return "" if any(c.isalnum() for c in said) else f"the {side} holds nothing to say"


def find_unspeakable(said: str, side: Side, rules: Rules) -> str:
    """Find characters that no voice can read."""
    found = (_UNSPEAKABLE if rules.language == "en" else _UNSPEAKABLE_ELSEWHERE).search(said)
    if found is None or not rules.unspeakable:
        return ""
    return f"'{found.group()}' can't be said: {_quoted(said[max(0, found.start() - 15) :], 40)}"


def find_language(said: str, side: Side, rules: Rules) -> str:
    """Find too little Latin script, or more function words of another language than of the wanted one."""
    if rules.language is None:
        return ""
    letters = _LETTER.findall(said)
    # All languages in the list are written in Latin letters.
    share = len(_LATIN.findall(said)) / max(1, len(letters))
    if share < rules.min_script_share:
        return f"{share:.0%} Latin letters, at least {rules.min_script_share:.0%}"
    spoken = _WORD.findall(said.lower())
    counts = {language: sum(word in known for word in spoken) for language, known in FUNCTION_WORDS.items()}
    # The wanted language wins a tie.
    most = max(counts, key=lambda language: (counts[language], language == rules.language))
    if counts[most] >= _MIN_FOREIGN_WORDS and counts[most] > counts[rules.language]:
        wanted = rules.language
        return f"reads like '{most}' ({counts[most]} of its function words, {counts[wanted]} of '{wanted}')"
    return ""


def find_length(said: str, side: Side, rules: Rules) -> str:
    """Find a text that takes too little or too much time to say."""
    duration_s = spoken_seconds(said, rules)
    least, most = (
        (rules.min_question_s, rules.max_question_s) if side == "question" else (rules.min_answer_s, rules.max_answer_s)
    )
    if duration_s < least:
        return f"about {duration_s:.1f} s to say, at least {least:g} s"
    return f"about {duration_s:.0f} s to say, at most {most:g} s" if duration_s > most else ""


def spoken_seconds(said: str, rules: Rules) -> float:
    """Estimate in seconds how long a normalised text takes to say: its characters at an even pace, and its pauses."""
    # The pace was fitted without the pauses after sentences: docs/cleaning.md.
    pauses = len(_PAUSE.findall(said))
    return len(said) / rules.chars_per_second + rules.pause_s * (1 + pauses)


RAW_RULES: dict[str, Callable[[str, Reading, Rules], str]] = {
    "prompt_leftovers": find_leftovers,
    "code": find_code,
    "maths": find_maths,
    "table": find_table,
    "address": find_address,
    "long_word": find_long_word,
    "assistant_talk": find_assistant_talk,
    "emoji": find_many_emoji,
    "list": find_long_list,
}
"""Rules for a text as it was written, in order: the first that finds something gives the reason."""

SPOKEN_RULES: dict[str, Callable[[str, Side, Rules], str]] = {
    "empty": find_empty,
    "language": find_language,
    "unspeakable": find_unspeakable,
    "length": find_length,
}
"""Rules for a normalised text, in order."""


def _quoted(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    if not text:
        return ""
    return f"'{text[:most]}{'...' if len(text) > most else ''}'"


def on_side(fault: Fault, field: str) -> Fault:
    """Return the same fault, with the name of the field in front of its reason."""
    return replace(fault, reason=f"{field}: {fault.reason}")
