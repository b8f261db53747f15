"""Reads Markdown as a voice would: finds what a text contains (code, tables, lists), and removes the marks."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

SHORT_ITEM_WORDS = 6
"""Bullets of at most this many words are read as one sentence together, longer ones as one sentence each."""

SHORT_STEP_WORDS = 3
"""The same limit for numbered items, which are mostly steps to take."""

SHORT_LINE_CHARS = 40
"""A shorter line that ends without punctuation was broken on purpose (a verse, a list), not wrapped."""

PLAIN_TAGS = frozenset(
    ("b", "strong", "i", "em", "u", "s", "small", "big", "p", "br", "hr", "div", "span", "sup", "sub", "mark", "center")
)
"""HTML tags that only format text; any other tag counts as code."""

_BULLET = re.compile(r"^([ \t]*)[•◦▪‣●○■➢➤✓✔·–—][ \t]+", re.MULTILINE)
_TAG = re.compile(r"</?([A-Za-z][\w-]*)\b[^<>]*>")
# Most texts contain none of these, and needn't be parsed.
_MAY_BE_MARKDOWN = re.compile(r"[*_`#<>\[\]|\\&~\n\r\t]|^\s*(?:[-+•◦▪‣●○■➢➤✓✔·–—]|\d+[.)])")
_WORDS_IN_TICKS = re.compile(r"[A-Za-z']+(?:[ -][A-Za-z']+)*")
_LOOKS_LIKE_CODE = re.compile(
    r"[(){}\[\];=<>]|^\s*(?:def|return|import|for|if|while|class|print)\b|(?:^|\s)(?:--?|/)\w", re.MULTILINE
)
_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth")


@dataclass
class Reading:
    """Holds a text as it is read aloud, and what was found in it."""

    text: str = ""  # one line without Markdown
    code: str = ""  # the first piece of code, or ""
    table: str = ""  # the first cell of the first table, or ""
    list_items: int = 0  # items of all lists
    _parts: list[str] = field(default_factory=list, repr=False)

    def note_code(self, code: str) -> None:
        """Keep the first piece of code."""
        self.code = self.code or code.strip() or "an empty code block"


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def read_markdown(text: str) -> Reading:
    """Parse CommonMark with tables.

    Headings become sentences, links and emphasis become their text, short lists one sentence, and long items a
    sentence each. Images are dropped.
    """
    if not _MAY_BE_MARKDOWN.search(text):
        return Reading(" ".join(text.split()))
    reading = Reading()
    # Scraped text can be escaped twice (&amp;lt;), so it is unescaped twice.
    prepared = _BULLET.sub(r"\1- ", html.unescape(html.unescape(text)).replace("\t", "    ").strip())
    _blocks(SyntaxTreeNode(_parser().parse(prepared)), reading, reading._parts)
    reading.text = " ".join(" ".join(reading._parts).split())
    return reading


def _blocks(node: SyntaxTreeNode, reading: Reading, parts: list[str]) -> None:
    for child in node.children:
        if child.type in ("fence", "code_block"):
            if child.type == "fence" or _LOOKS_LIKE_CODE.search(child.content):
                reading.note_code(child.content)
            else:
                parts.append(child.content)
        elif child.type == "html_block":
            parts.append(_html(child.content, reading))
        # Tables aren't read; a rule drops the text.
        elif child.type == "table":
            reading.table = reading.table or _inline_of(child, reading) or "a table"
        elif child.type in ("bullet_list", "ordered_list"):
            parts.append(_list(child, reading, after="" if not parts else parts[-1]))
        elif child.type == "heading":
            parts.append(ended(_inline_of(child, reading)))
        elif child.type == "paragraph":
            parts.append(_paragraph(child, reading))
        else:
            _blocks(child, reading, parts)


def _paragraph(node: SyntaxTreeNode, reading: Reading) -> str:
    text = _inline_of(node, reading)
    following = node.next_sibling
    # Without a mark at its end, a paragraph would run into the next one when both are on one line.
    return ended(text) if following is not None and following.type == "paragraph" else text


def _list(node: SyntaxTreeNode, reading: Reading, after: str) -> str:
    items = []
    for item in node.children:
        reading.list_items += 1
        parts: list[str] = []
        _blocks(item, reading, parts)
        items.append(" ".join(" ".join(parts).split()))
    ordered = node.type == "ordered_list"
    if ordered and len(items) == 1:  # "1984. A novel." is a sentence that begins with a number
        return f"{node.attrs.get('start', 1)}. {items[0]}"
    items = [item for item in items if item]
    if not items:
        return ""
    most_words = SHORT_STEP_WORDS if ordered else SHORT_ITEM_WORDS
    if all(len(item.split()) <= most_words and not re.search(r"[.!?:;,]", item.rstrip(";,")) for item in items):
        return ended(joined([item.rstrip(";,") for item in items]))
    # The numbers of steps matter, so they are said as words.
    if ordered and len(items) <= len(_ORDINALS):
        items = [f"{ordinal}: {item}" for ordinal, item in zip(_ORDINALS, items, strict=False)]
    return " ".join(ended(item) for item in items)


def _inline_of(node: SyntaxTreeNode, reading: Reading) -> str:
    """Return the text of all inline content under a block."""
    pieces = [_inline(child, reading) for child in node.walk() if child.type == "inline"]
    return " ".join(piece for piece in pieces if piece)


def _inline(node: SyntaxTreeNode, reading: Reading) -> str:
    text = ""
    for child in node.children:
        if child.type == "text":
            text += child.content
        elif child.type == "code_inline":
            # Plain words in backticks are emphasis, not code.
            if not _WORDS_IN_TICKS.fullmatch(child.content):
                reading.note_code(child.content)
            text += child.content
        elif child.type in ("softbreak", "hardbreak"):
            text = _broken(text)
        elif child.type == "html_inline":
            text += _html(child.content, reading)
        elif child.type != "image":
            text += _inline(child, reading)
    return " ".join(text.split())


def _broken(text: str) -> str:
    """Return the text before a line break, with a comma if the line was broken on purpose."""
    line = text.rsplit("\n", 1)[-1]
    on_purpose = 0 < len(line) < SHORT_LINE_CHARS and line.rstrip()[-1:].isalnum()
    return f"{text.rstrip()},\n" if on_purpose else f"{text}\n"


def _html(content: str, reading: Reading) -> str:
    for tag in _TAG.finditer(content):
        if tag.group(1).lower() not in PLAIN_TAGS:
            reading.note_code(tag.group(0))
    return re.sub(r"<[^<>]*>", " ", content)


def ended(text: str) -> str:
    """Add a full stop if the text doesn't end in punctuation."""
    text = text.rstrip()
    return text if not text or text[-1] in ".!?:;,…\"')" else f"{text}."


def joined(items: list[str]) -> str:
    """List items in one phrase: ``["a", "b", "c"]`` -> ``"a, b, and c"``."""
    if len(items) < 3:
        return " and ".join(items)
    return ", ".join(items[:-1]) + ", and " + items[-1]
