"""Spells text as it is said: numbers, dates, money, units, abbreviations and symbols become English words.

Each step is a pattern and a function of its match; :func:`spell` applies them in order. Markdown is removed before
(``markdown``). What no step knows stays as it is, so that the rules can find it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import regex

from anytalk.text import numbers as words
from anytalk.text.markdown import read_markdown
from anytalk.text.words import ABBREVIATIONS, CURRENCIES, FRACTIONS, PLAIN_CHARACTERS, SCALES, SYMBOLS, UNITS

DateOrder = Literal["month first", "day first"]
"""How 3/5/2024 is read."""

MAX_ROUNDS = 5
"""Removing Markdown can reveal more (escaped marks); text that still changes after this many rounds is broken."""

_Match: TypeAlias = "regex.Match[str]"
_Step: TypeAlias = "tuple[regex.Pattern[str], Callable[[_Match], str]]"

# Thousands may be separated by commas, which then must be three digits apart.
_NUM = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_MONTH = "|".join(f"{name}|{name[:3]}\\b\\.?" for name in words.MONTHS) + r"|Sept\b\.?"
# am, pm, AM, p.m. ...
_HALF = r"(?:[ap]\.m\.|[AaPp][Mm]\b|[AP]\.M\.)"
# Variation selectors and joiners after an emoji belong to it.
_EMOJI = regex.compile(r"(?:\p{Extended_Pictographic}|\p{Regional_Indicator}|\p{Emoji_Modifier})[\uFE0F\u200D]*")
_SPOKEN_PICTOGRAPHS = "©®™↔"
_EMOTICON = regex.compile(r"(?<!\S)[:;=]['-]?[)(DPp](?!\S)")


def find_emoji(text: str) -> list[str]:
    """Find each emoji of a text; ©, ® and ™ don't count, because they are said or dropped as symbols."""
    return [found for found in _EMOJI.findall(text) if found[0] not in _SPOKEN_PICTOGRAPHS]


def without_emoji(text: str) -> str:
    """Remove emoji, and emoticons such as ``:-)``."""
    bare = _EMOJI.sub(lambda m: m[0] if m[0][0] in _SPOKEN_PICTOGRAPHS else " ", text)
    return _EMOTICON.sub(" ", bare.replace("\ufe0f", "").replace("\u200d", ""))


def plain_characters(text: str) -> str:
    """Use NFC, plain quotes, spaces and hyphens; dashes become commas between words and hyphens between numbers."""
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    return _DASH_OF_WORDS.sub(", ", _DASH_OF_NUMBERS.sub("-", text))


_PLAIN = str.maketrans(PLAIN_CHARACTERS)
_DASH_OF_NUMBERS = regex.compile(r"(?<=\d)\s*[–—]\s*(?=[$€£¥]?\d)")
_DASH_OF_WORDS = regex.compile(r"\s*(?:[–—]+|(?<=\s)-{2,}(?=\s)|(?<=\w)--(?=\w)|(?<=[^\W\d]\s)-(?=\s))\s*")


def _year_of(text: str | None) -> int | None:
    if text is None:
        return None
    # Years of two digits are taken to be from 1951 to 2050.
    return int(text) if len(text) == 4 else (1900 if int(text) > 50 else 2000) + int(text)


def _month_of(name: str) -> int:
    return next(i for i, month in enumerate(words.MONTHS, start=1) if month.startswith(name[:3]))


def _iso_date(m: _Match) -> str:
    year, month, day = int(m[1]), int(m[2]), int(m[3])
    return words.date(month, day, year) if words.is_date(month, day) else m[0]


def _slash_date(m: _Match, order: DateOrder) -> str:
    month, day = (int(m[1]), int(m[2])) if order == "month first" else (int(m[2]), int(m[1]))
    return words.date(month, day, _year_of(m[3])) if words.is_date(month, day) else m[0]


def _month_day(m: _Match) -> str:
    month, day = _month_of(m[1]), int(m[2])
    return words.date(month, day, _year_of(m[3])) if words.is_date(month, day) else m[0]


def _day_month(m: _Match) -> str:
    month, day = _month_of(m[2]), int(m[1])
    if not words.is_date(month, day):
        return m[0]
    tail = "" if m[3] is None else f", {words.year(int(m[3]))}"
    return f"the {words.ordinal(day)} of {words.MONTHS[month - 1]}{tail}"


def _time(m: _Match) -> str:
    hour, minute = int(m["hour"]), int(m["minute"] or 0)
    if hour > 23 or minute > 59:
        return m[0]
    return words.clock(hour, minute, m["half"] or "")


def _money(m: _Match) -> str:
    one, many, hundredth, hundredths = CURRENCIES[m["sign"]]
    number, scale = m["number"], m["scale"]
    many = one if _describes(m) else many
    sign = "minus " if m["minus"] else ""
    if scale:
        return f"{sign}{words.spoken_number(number)} {SCALES.get(scale.lower(), scale)} {many}"
    whole, _, cents = number.partition(".")
    # Two decimals are cents; any other number of them is read digit by digit ("three point five dollars").
    if len(cents) != 2:
        return sign + words.counted(number, (one, many))
    parts = [words.counted(whole, (one, many))] if whole.strip("0") or not cents.strip("0") else []
    if cents.strip("0"):
        parts.append(words.counted(str(int(cents)), (hundredth, hundredths)))
    return sign + " and ".join(parts)


def _symbol_fraction(m: _Match) -> str:
    share = words.fraction(*FRACTIONS[m[2]])
    return f"{words.spoken_number(m[1])} and {_a(share)}" if m[1] else share


def _mixed_fraction(m: _Match) -> str:
    return f"{words.spoken_number(m[1])} and {_a(words.fraction(int(m[2]), int(m[3])))}"


def _a(share: str) -> str:
    return "a half" if share == "one half" else "a quarter" if share == "one quarter" else share


def _or_and(m: _Match) -> str:
    return f"{m[1]} {m[2]}" if m[1].lower() == "and" else f"{m[1]} or {m[2]}"


def _step(pattern: str, say: Callable[[_Match], str]) -> _Step:
    return regex.compile(pattern), partial(_said, say=say)


def _steps(order: DateOrder) -> list[_Step]:
    unit = "|".join(regex.escape(u) for u in sorted(UNITS, key=len, reverse=True))
    sign = "|".join(regex.escape(s) for s in CURRENCIES)
    abbreviation = "|".join(regex.escape(a) for a in ABBREVIATIONS)
    fraction = "".join(FRACTIONS)
    return [
        _step(r"\[\d+(?:[,-]\s?\d+)*\]", lambda m: ""),  # citations
        _step(rf"(?<![\w.])(?:{abbreviation})(?!\w)", lambda m: ABBREVIATIONS[m[0]]),
        # The dot of "etc." also ends the sentence before a capital letter, else it belongs to the word.
        _step(r"\betc\.(?=\s+\p{Lu}|\s*$)", lambda m: "and so on."),
        _step(r"\betc\b\.?", lambda m: "and so on"),
        # Before a name "St." is Saint, after one it is Street.
        _step(r"\bSt\. (?=\p{Lu})", lambda m: "Saint "),
        _step(r"(?<=\p{Lu}\w+ )St\.?(?!\w)", lambda m: "Street"),
        _step(r"\b([Nn])o\. ?(?=\d)|#(?=\d)", lambda m: f"{m[1] or 'n'}umber "),
        _step(r"\bC\+\+", lambda m: "C plus plus"),
        _step(r"\b([CF])#", lambda m: f"{m[1]} sharp"),
        _step(r"#(?=\p{L})", lambda m: ""),
        _step(r"\bWorld War (I{1,2})\b", lambda m: f"World War {'One' if m[1] == 'I' else 'Two'}"),
        # Plain domains are said; addresses with a path or an @ are left for the rules to find.
        _step(r"(?<![\w@./])((?:[a-z][a-z-]*\.)+(?:com|org|net|io|edu|gov))(?![\w@/]|\.\w)", _domain),
        # Dates, times and other numbers with their own reading must come before plain numbers.
        _step(r"(?<![\w-])(\d{4})-(\d{2})-(\d{2})(?![\w-])", _iso_date),
        _step(r"(?<![\w/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\w/])", partial(_slash_date, order=order)),
        _step(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (\d{{4}})\b)?(?![:%])", _month_day),
        _step(
            rf"(?:\b[Tt]he )?(?<![\w.:-])(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH})\b(?:,? (\d{{4}})\b)?",
            _day_month,
        ),
        _step(rf"(?<![\w:])(?P<hour>\d{{1,2}}):(?P<minute>\d\d)(?::\d\d)?(?:\s?(?P<half>{_HALF})\.?)?(?![\w:])", _time),
        _step(rf"(?<![\w:.])(?P<hour>1[0-2]|0?[1-9])(?P<minute>)\s?(?P<half>{_HALF})\.?(?!\w)", _time),
        # Telephone numbers are read digit by digit, versions (1.2.3) with "point", decades (1990s, 90s) in words.
        _step(r"(?<![\w-])(?:\(\d{3}\) ?|\d{3}-)?\d{3}-\d{4}(?![\w-])", lambda m: words.digits(m[0])),
        _step(r"\b(\d+(?:\.\d+){2,})", lambda m: " point ".join(words.spoken_number(n) for n in m[1].split("."))),
        _step(r"(?<![\w.,])([1-9]\d)(\d0)'?s\b", lambda m: words.decade(int(m[1] + m[2]))),
        _step(r"(?<!\w)'?([2-9]0)s\b", lambda m: words.decade(int(m[1]))),
        # Heights such as 5'11" come before marks between numbers: ranges, differences, products, ratios, comparisons.
        _step(r"(\d)'(\d{1,2})(?:\"|'')", lambda m: f"{words.cardinal(int(m[1]))} foot {words.cardinal(int(m[2]))}"),
        # Without spaces a hyphen is a range, with spaces a minus.
        _step(r"(?<=\d)-(?=[$€£¥]?\d)", lambda m: " to "),
        _step(r"(?<=\d) - (?=\d)", lambda m: " minus "),
        _step(r"(?<=\d) ?[*x] ?(?=\d)", lambda m: " times "),
        _step(r"(?<=\d):(?=\d)", lambda m: " to "),
        _step(r"(?<=\d) ?< ?(?=\d)", lambda m: " is less than "),
        _step(r"(?<=\d) ?> ?(?=\d)", lambda m: " is greater than "),
        _step(
            rf"(?P<minus>(?<!\w)-)?(?P<sign>{sign})\s?(?P<number>{_NUM})"
            r"(?:\s?(?P<scale>thousand|million|billion|trillion|[kKmMbB]n?|tn)\b)?",
            _money,
        ),
        _step(rf"(?<![\w.])(?P<minus>)(?P<number>{_NUM})\s?(?P<scale>)(?P<sign>€)", _money),
        _step(rf"(\d+)\s?([{fraction}])", _symbol_fraction),
        _step(rf"()([{fraction}])", _symbol_fraction),
        _step(r"(?<![\w/.])(\d+) (\d{1,2})/(\d{1,3})(?![\w/])", _mixed_fraction),
        _step(r"(?<![\w/.])(\d{1,2})/(\d{1,3})(?![\w/])", lambda m: words.fraction(int(m[1]), int(m[2]))),
        # Longer units come first, so that "km/h" isn't read as "km"; a dot before a small letter is the unit's.
        _step(rf"(?<![\w.])(-?)({_NUM})\s?({unit})(?![\w/²³°])(?:\.(?=\s\p{{Ll}}))?", _unit),
        _step(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: words.ordinal(int(m[1]))),
        _step(r"(?<![\w.,])(\d+)k\b", lambda m: words.spoken_number(m[1]) + " thousand"),
        _step(r"(?<![\w.,])(\d+)x\b", lambda m: words.spoken_number(m[1]) + " times"),
        _step(r"(?<=\d\s?)\^\s?2\b", lambda m: " squared"),
        _step(r"²", lambda m: " squared"),
        _step(r"(?<=\d\s?)\^\s?3\b", lambda m: " cubed"),
        _step(r"³", lambda m: " cubed"),
        _step(r"(?<=\d)\^(?=\d)", lambda m: " to the power of "),
        # A number from 1000 to 1099 is a year only after a word such as "in"; higher ones mostly are.
        _step(r"(?<=\b(?:[Ii]n|[Ss]ince|[Oo]f|[Yy]ear|[Bb]y|[Uu]ntil|AD) )(10\d\d)\b(?![,.]\d)", _year),
        _step(r"(?<![\w.,]|[-+]\s?)(1[1-9]\d\d|20\d\d)(?![\w]|[,.]\d)", _year),
        # Letters and digits are separated (GPT4), so that the number can be spelled.
        _step(r"(?<=\p{L})-(?=\d)|(?<=\p{L})(?=\d)|(?<=\d)(?=\p{L})", lambda m: " "),
        _step(rf"(?<![\w.])-(?={_NUM})", lambda m: "minus "),
        _step(_NUM, lambda m: words.spoken_number(m[0])),
        _step(r"\b(\p{L}+)/(\p{L}+)\b(?!/)(?<![/.]\w+/\w+)", _or_and),
        _step(r"[" + regex.escape("".join(SYMBOLS)) + "]", lambda m: SYMBOLS[m[0]]),
        _step(r"(?<=\w)_+(?=\W|$)|(?<=\W|^)_+(?=\w)|\*+", lambda m: ""),
    ]


def _unit(m: _Match) -> str:
    # In "a 5 km run" the unit stays singular.
    one, many = UNITS[m[3]]
    return ("minus " if m[1] else "") + words.counted(m[2], (one, one if _describes(m) else many))


def _describes(m: _Match) -> bool:
    """Return whether an amount describes the noun after it, as in "a $20 bill"."""
    return _ARTICLE.search(m.string, 0, m.start()) is not None and _NOUN.match(m.string, m.end()) is not None


def _year(m: _Match) -> str:
    return words.year(int(m[1]))


def _domain(m: _Match) -> str:
    return m[1].replace(".", " dot ")


# The dot of "a.m." doesn't end a sentence.
_SENTENCE_START = regex.compile(r"(?:^|(?<!\b[ap]\.m)[.!?]['\")]*\s+)['\"(]*$")


def _said(m: _Match, say: Callable[[_Match], str]) -> str:
    """Return how a match is said, with a capital letter if it begins a sentence."""
    said = say(m)
    # Only numbers and symbols get a capital letter; words that were small stay small.
    if said != m[0] and not m[0][:1].islower() and _SENTENCE_START.search(m.string, 0, m.start()):
        return said[:1].upper() + said[1:]
    return said


_STEPS: dict[DateOrder, list[_Step]] = {order: _steps(order) for order in ("month first", "day first")}
_ARTICLE = regex.compile(r"\b[Aa]n? $")
# A small word that isn't a preposition or the like is taken for the noun.
_NOUN = regex.compile(r" (?!(?:a|an|and|at|for|from|in|is|on|or|per|to|with)\b)\p{Ll}")
_STEPS_WITHOUT_DIGITS: dict[DateOrder, list[_Step]] = {
    order: [step for step in steps if r"\d" not in step[0].pattern] for order, steps in _STEPS.items()
}
"""Steps for text without digits: a pattern that contains a digit class can't match there."""

_DIGIT = regex.compile(r"\d")


def spell(text: str, order: DateOrder = "month first") -> str:
    """Write numbers, dates, money, units, abbreviations and symbols of one line as English words."""
    # Most sentences contain no number and skip two thirds of the steps.
    steps = _STEPS[order] if _DIGIT.search(text) else _STEPS_WITHOUT_DIGITS[order]
    # Later steps see what earlier ones wrote, so their order matters.
    for pattern, say in steps:
        text = pattern.sub(say, text)
    return text


_TIDY: list[tuple[regex.Pattern[str], str | Callable[[_Match], str]]] = [
    (regex.compile(r"\(\s*\)|\[\s*\]"), " "),
    (regex.compile(r"\s+"), " "),
    (regex.compile(r"^ | $"), ""),
    (regex.compile(r"\s+(?=[,.;:!?)](?!\w))"), ""),
    (regex.compile(r"(?<=\()\s+"), ""),
    # A question stays one: "?!" becomes "?".
    (regex.compile(r"[!?]{2,}"), lambda m: "?" if "?" in m[0] else "!"),
    (regex.compile(r"\.{4,}"), "..."),
    (regex.compile(r"(?<=[!?:;,]),+|,+(?=[.!?:;])"), ""),
    (regex.compile(r"^[,;:.\s]+(?=\w)|[,;\s]+$"), ""),
]


def tidy(text: str) -> str:
    """Put text on one line without doubled marks, spaces before punctuation or empty brackets."""
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text


def normalise_once(text: str, english: bool = True, order: DateOrder = "month first") -> str:
    """Run one round of :func:`normalise`."""
    line = plain_characters(read_markdown(without_emoji(text)).text)
    return tidy(spell(line, order) if english else line)


def normalise(text: str, english: bool = True, order: DateOrder = "month first") -> str:
    """Spell a text as it is said, on one line; another call changes nothing.

    Args:
        english: Whether to spell numbers, units, symbols and abbreviations in English; other languages keep them.
        order: How 3/5/2024 is read.
    """
    for _ in range(MAX_ROUNDS):
        before, text = text, normalise_once(text, english, order)
        if text == before:
            break
    return text
