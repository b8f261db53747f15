"""Spells numbers as English words (American: no "and" after the hundreds). All functions are pure.

No library is used, because num2words is LGPL and British, and importing inflect (MIT) takes seconds, while the words of
a cardinal are twenty lines. The results were compared with inflect's.
"""

from __future__ import annotations

MAX_CARDINAL_DIGITS = 15
"""Longer numbers are identifiers (accounts, barcodes) and are read digit by digit."""

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

_SMALL = {2: ("half", "halves"), 4: ("quarter", "quarters")}
# These are no fractions: around the clock, and the eleventh of September.
_SPOKEN_PAIRS = {(24, 7): "twenty-four seven", (9, 11): "nine eleven"}


_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_POWERS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip


def cardinal(number: int) -> str:
    """Spell a whole number: ``342`` -> ``"three hundred forty-two"``; negative ones begin with "minus"."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    power, name = next((power, name) for power, name in _POWERS if number >= power)
    many, rest = divmod(number, power)
    return f"{cardinal(many)} {name}" + (f" {cardinal(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """Spell an ordinal number: ``21`` -> ``"twenty-first"``."""
    words = cardinal(number)
    # Only the last word is changed.
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    head, last = words[:cut], words[cut:]
    return head + (_ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"))


def digits(text: str) -> str:
    """Spell each digit: ``"007"`` -> ``"zero zero seven"``; other characters are dropped."""
    return " ".join(cardinal(int(c)) for c in text if c.isdigit())


def spoken_number(text: str) -> str:
    """Spell a number: ``"1,234.50"`` -> ``"one thousand two hundred thirty-four point five zero"``.

    Numbers with leading zeros or too many digits are spelled digit by digit.
    """
    whole, point, fraction = text.replace(",", "").partition(".")
    if len(whole) > MAX_CARDINAL_DIGITS or (len(whole) > 1 and whole.startswith("0")):
        words = digits(whole)
    else:
        words = cardinal(int(whole or "0"))
    return f"{words} point {digits(fraction)}" if point else words


def year(number: int) -> str:
    """Spell a year: ``1984`` -> ``"nineteen eighty-four"``, ``1900`` -> ``"nineteen hundred"``."""
    century, rest = divmod(number, 100)
    if number % 1000 == 0 or 2000 <= number < 2010:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def decade(number: int) -> str:
    """Spell a decade: ``1990`` -> ``"nineteen nineties"``, ``90`` -> ``"nineties"``, 2000 -> ``"two thousands"``."""
    words = year(number) if number >= 1000 else cardinal(number)
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def date(month: int, day: int, year_number: int | None = None) -> str:
    """Spell a date: ``(3, 5, 2024)`` -> ``"March fifth, twenty twenty-four"``."""
    words = f"{MONTHS[month - 1]} {ordinal(day)}"
    return words if year_number is None else f"{words}, {year(year_number)}"


def is_date(month: int, day: int) -> bool:
    """Return whether this day exists in some year."""
    return 1 <= month <= 12 and 1 <= day <= (31 if month in (1, 3, 5, 7, 8, 10, 12) else 29 if month == 2 else 30)


def clock(hour: int, minute: int, half: str = "") -> str:
    """Spell a time: ``(10, 5, "am")`` -> ``"ten oh five a.m."``; no `half`: "ten o'clock", "fourteen hundred"."""
    if minute == 0:
        rest = "" if half else " o'clock" if 0 < hour <= 12 else " hundred"
    else:
        rest = f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    suffix = f" {half[0].lower()}.m." if half else ""
    return f"{cardinal(hour)}{rest}{suffix}"


def fraction(numerator: int, denominator: int) -> str:
    """Spell a fraction: ``(3, 4)`` -> ``"three quarters"``, ``(7, 12)`` -> ``"seven twelfths"``; else with "over"."""
    if (numerator, denominator) in _SPOKEN_PAIRS:
        return _SPOKEN_PAIRS[numerator, denominator]
    if not 0 < numerator < denominator or denominator > 100:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    single, plural = _SMALL.get(denominator, (ordinal(denominator), ordinal(denominator) + "s"))
    return f"{cardinal(numerator)} {single if numerator == 1 else plural}"


def counted(number: str, unit: tuple[str, str]) -> str:
    """Spell a number with its unit: ``"1", ("meter", "meters")`` -> ``"one meter"``."""
    return f"{spoken_number(number)} {unit[0] if number == '1' else unit[1]}"
