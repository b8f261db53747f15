"""What is said for what is written: hand-typed pairs, and that saying it twice changes nothing."""

import random

import pytest

from anytalk.text import numbers as words
from anytalk.text.markdown import read_markdown
from anytalk.text.normalise import find_emoji, normalise, normalise_once

SAID = {
    # Markdown
    "**Paris** is the [capital](http://x.y) of _France_!!": "Paris is the capital of France!",
    "# Tea\n\nBoil *fresh* water.": "Tea. Boil fresh water.",
    "Use `hello` ![a picture](b.png)now.": "Use hello now.",
    "- red\n- blue\n- green": "red, blue, and green.",
    "The colours are:\n\n* red\n* blue\n\nThat is all.": "The colours are: red and blue. That is all.",
    "1. Boil the water for ten long minutes.\n2. Add the eggs with a big spoon.": (
        "First: Boil the water for ten long minutes. Second: Add the eggs with a big spoon."
    ),
    "• one\n• two": "one and two.",
    "1. tea\n2. coffee": "tea and coffee.",
    "1. Heat the water.\n2. Wait for 8 min.": "First: Heat the water. Second: Wait for eight minutes.",
    "Take ½ cup": "Take one half cup",
    "> A quote\n> over lines": "A quote, over lines",
    "Roses are red\nViolets are blue": "Roses are red, Violets are blue",
    "a &amp; b": "a and b",
    "1984. A novel.": "Nineteen eighty-four. A novel.",
    # Plain numbers
    "3 cats. 4 dogs.": "Three cats. Four dogs.",
    "1,234,567": "One million two hundred thirty-four thousand five hundred sixty-seven",
    "pi is 3.14": "pi is three point one four",
    "agent 007": "agent zero zero seven",
    "it is -5": "it is minus five",
    "the 1st, 22nd and 103rd": "the first, twenty-second and one hundred third",
    "version 1.2.3": "version one point two point three",
    "call 555-0123": "call five five five zero one two three",
    "B12, H2O and COVID-19": "B twelve, H two O and COVID nineteen",
    "a 5-year-old": "a five-year-old",
    "#1 in C++ and C#": "Number one in C plus plus and C sharp",
    "World War II": "World War Two",
    # Years and dates
    "in 1066, 1900, 1984, 2000, 2005 and 2024": (
        "in ten sixty-six, nineteen hundred, nineteen eighty-four, two thousand, two thousand five and "
        "twenty twenty-four"
    ),
    "the 1990s and the '80s": "the nineteen nineties and the eighties",
    "on 2024-03-05": "on March fifth, twenty twenty-four",
    "on March 5, 2024": "on March fifth, twenty twenty-four",
    "on 5 March 1998": "on the fifth of March, nineteen ninety-eight",
    "on the 5th of May": "on the fifth of May",
    "on 3/5/2024": "on March fifth, twenty twenty-four",
    "from 1914 to 1918, 1939-1945": (
        "from nineteen fourteen to nineteen eighteen, nineteen thirty-nine to nineteen forty-five"
    ),
    "1500 people": "Fifteen hundred people",
    # Times
    "at 10:05 am, 10:30, 14:00 and 10:00": "at ten oh five a.m., ten thirty, fourteen hundred and ten o'clock",
    "It is 5pm. Go home.": "It is five p.m. Go home.",
    # Money
    "$1, $5.99, £2, €0.50 and 20€": (
        "One dollar, five dollars and ninety-nine cents, two pounds, fifty cents and twenty euros"
    ),
    "$3.5 million or $10k": "Three point five million dollars or ten thousand dollars",
    "a $20 bill costs -$20": "a twenty dollar bill costs minus twenty dollars",
    # Units
    "1 km, 5 km, 2.5kg and 100 km/h": (
        "One kilometer, five kilometers, two point five kilograms and one hundred kilometers per hour"
    ),
    "20°C is 68 °F": "Twenty degrees Celsius is sixty-eight degrees Fahrenheit",
    "100% of 5 m²": "One hundred percent of five square meters",
    "a 5 km run in 30 min.": "a five kilometer run in thirty minutes.",
    "6'2\" tall": "Six foot two tall",
    # Sums, fractions, ranges
    "2 + 3 = 5 and 5 - 3 = 2": "Two plus three equals five and five minus three equals two",
    "6 x 7, 6*7 and 6 × 7": "Six times seven, six times seven and six times seven",
    "5-10 people, 5–10 days": "Five to ten people, five to ten days",
    "1/2, 3/4, 2½ cups and 1 1/2": "One half, three quarters, two and a half cups and one and a half",
    "open 24/7": "open twenty-four seven",
    "2^3 > 7": "Two cubed is greater than seven",
    "10 > 5": "Ten is greater than five",
    "it ended 3:1": "it ended three to one",
    # Words and signs
    "Mr. Smith vs. Dr. Jones": "Mister Smith versus Doctor Jones",
    "Main St. in St. Louis": "Main Street in Saint Louis",
    "pets, e.g. cats, dogs, etc.": "pets, for example cats, dogs, and so on.",
    "i.e. now": "that is now",
    "AT&T at me@home and he/she and/or they": "AT and T at me at home and he or she and or they",
    "visit example.com": "visit example dot com",
    "“quoted” — and so…": '"quoted", and so...',
    "hello 😀 :-) there": "hello there",
    "What?! No!!!": "What? No!",
    "as known [1] [2,3].": "as known.",
}


@pytest.mark.parametrize("written", SAID)
def test_what_is_said(written: str) -> None:
    assert normalise(written) == SAID[written]


@pytest.mark.parametrize("written", SAID)
def test_what_is_said_stays_as_it_is(written: str) -> None:
    assert normalise(SAID[written]) == SAID[written]


def test_dates_can_be_read_with_the_day_first() -> None:
    assert normalise("3/5/2024", order="day first") == "May third, twenty twenty-four"


def test_impossible_dates_and_times_are_no_dates_and_times() -> None:
    assert normalise("13/45/2024") != normalise("12/31/2024")
    assert "o'clock" not in normalise("at 99:00")


def test_other_languages_keep_their_numbers() -> None:
    assert normalise("**Es** kostet 3,50 €", english=False) == "Es kostet 3,50 €"


PIECES = [
    *["**", "*", "_", "__", "`", "#", "-", ".", ",", "!", "?", "...", ":", ";", "--", "—", "–", "(", ")", "[", "]"],
    *["$", "€", "%", "&", "@", "+", "=", "<", ">", "^", "²", "½", "°C", "km", "m", "s", "am", "p.m.", "~", "/", "|"],
    *["3", "10", "1984", "1,000", "2.5", "007", "3/4", "10:30", "2024-03-05", "$5", "1/2", "x^2", "1.", "2)", "no."],
    *["March", "Jan.", "the", "cat", "Dog", "I", "e.g.", "etc.", "Mr.", "St.", "and/or", "k", "B", "x", "é", "Москва"],
    *["http://a.b", "a.com", "😀", ":-)", "&amp;", "&lt;", "&amp;lt;", "<b>", "</b>", "•", "'", '"', "“", "’", "\\"],
    *["\n", "\n\n", "\t", "\u200b", "    "],
]


@pytest.mark.parametrize("seed", range(4))
def test_normalising_random_text_twice_is_normalising_it_once(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(150):
        pieces = generator.choices(PIECES, k=generator.randint(1, 12))
        text = "".join(piece + generator.choice(["", " "]) for piece in pieces)
        once = normalise(text)
        assert "\n" not in once, text
        assert normalise_once(once) == once, text


@pytest.mark.parametrize(
    ("year", "said"),
    [
        (1000, "one thousand"),
        (1066, "ten sixty-six"),
        (1100, "eleven hundred"),
        (1901, "nineteen oh one"),
        (2000, "two thousand"),
        (2009, "two thousand nine"),
        (2010, "twenty ten"),
    ],
)
def test_years(year: int, said: str) -> None:
    assert words.year(year) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("0", "zero"),
        ("100", "one hundred"),
        ("342", "three hundred forty-two"),
        ("1000000000", "one billion"),
        ("0.5", "zero point five"),
        ("00", "zero zero"),
        ("1234567890123456", "one two three four five six seven eight nine zero one two three four five six"),
    ],
)
def test_numbers(number: str, said: str) -> None:
    assert words.spoken_number(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "zeroth"),
        (1, "first"),
        (12, "twelfth"),
        (20, "twentieth"),
        (43, "forty-third"),
        (100, "one hundredth"),
        (118, "one hundred eighteenth"),
    ],
)
def test_ordinals(number: int, said: str) -> None:
    assert words.ordinal(number) == said


def test_markdown_is_told_from_text() -> None:
    reading = read_markdown("Text\n\n```\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n\n<script>")
    assert (reading.code, reading.list_items) == ("x = 1", 2)
    assert reading.table
    assert "x = 1" not in reading.text


def test_indented_verse_is_no_code() -> None:
    reading = read_markdown("He said:\n\n    the sea was calm\n    the sky was clear")
    assert (reading.code, reading.text) == ("", "He said: the sea was calm the sky was clear")


def test_signs_of_ownership_are_no_emoji() -> None:
    assert find_emoji("© 2020 ™ 👍🏽 ❤️") == ["👍", "🏽", "❤️"]
