"""What the training speech says: a voice assistant's questions and answers, ordinary English, numbers, names, lists.

Always the same texts in the same order. Every 50th, by the hash of its words, is held out; texts of `examples/eval` are
left out.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scrambled import word_lists
from templates import answers, questions

EVAL_SETS = Path(__file__).resolve().parents[1] / "eval"
HELD_OUT_OF = 50
LONGEST = 220
"""Letters of a text; longer ones would be cut by hibari in places of its own."""
QUESTIONS, ANSWERS, WORD_LISTS, ORDINARY, MADE, LONG = 2500, 3500, 700, 8000, 4500, 1000
"""How many of each kind at most."""

_PLAIN = re.compile(r"[A-Za-z0-9,.?!'’\- ;:$%&()]+")


def _listed(block: str) -> list[str]:
    return [entry.strip() for entry in " ".join(block.split()).split(";")]


FIRST_NAMES = _listed(
    """Olivia; Noah; Emma; Liam; Amelia; Mateo; Sofia; Ethan; Aisha; Kenji; Priya; Lars; Chloe; Omar; Ingrid; Diego;
    Hannah; Wei; Fatima; Patrick; Zoe; Nikolai; Grace; Samuel; Leila; Marcus; Bridget; Tariq; Yuki; Rosa; Walter;
    Beatrice; Hugo; Naomi; Felix; Ruth"""
)
LAST_NAMES = _listed(
    """Anderson; Baker; Chen; Dubois; Evans; Fischer; Garcia; Hughes; Ivanov; Johnson; Kowalski; Lopez; Murphy; Nguyen;
    Okafor; Patel; Quinn; Rossi; Schmidt; Tanaka; Ueda; Vargas; Williams; Xu; Young; Zimmerman; O'Brien; McCarthy;
    Fitzgerald; Harrington"""
)
PLACES = _listed(
    """London; Chicago; Nairobi; Kyoto; Lisbon; Denver; Toronto; Mumbai; Helsinki; Boston; Sydney; Cairo; Vancouver;
    Dublin; Seattle; Istanbul; Warsaw; Phoenix; Montreal; Edinburgh; Singapore; Philadelphia; Barcelona; Albuquerque;
    Copenhagen; Houston"""
)
STREETS = _listed(
    "Maple; Oak; Station; Church; Harbor; Mill; Willow; Park; Bridge; King; Cedar; Hill; Market; Garden; River; Elm"
)
KINDS = _listed("Street; Avenue; Road; Lane; Drive; Boulevard; Court")
MONTHS = _listed("January; February; March; April; May; June; July; August; September; October; November; December")
DAYS = _listed("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday")
ORDINALS = _listed("1st; 2nd; 3rd; 4th; 5th; 7th; 10th; 12th; 13th; 16th; 19th; 20th; 21st; 22nd; 25th; 28th")
THINGS = _listed(
    """apples; bread; olive oil; batteries; two lemons; a notebook; shampoo; coffee beans; oat milk; cheese; carrots;
    a phone charger; dog food; rice; tomatoes; paper towels; honey; black tea; yogurt; spinach; garlic; candles"""
)
FEELINGS = _listed(
    """What a wonderful day!; That's fantastic news!; Oh no, I'm so sorry!; Congratulations!; Watch out!; Well done!;
    Hooray, we made it!; Happy birthday!; Not again!; How exciting!; Stop right there!; Thank you so much!; You're
    absolutely right!; What a surprise!; Good luck!; Oh, come on!; Wow, that was fast!; I can't believe it!; Never
    mind!; Good morning!"""
)


@dataclass(frozen=True)
class Sentence:
    """A text, its kind, and whether nothing may be trained on it."""

    kind: str
    text: str
    held_out: bool


def sentences(folder: Path | None, seed: int = 0) -> list[Sentence]:
    """All texts, shuffled by `seed`.

    Args:
        folder: Files of ordinary English, as the Debian packages `fortunes` and `fortunes-min` have them (entries
            parted by lines of one ``%``); None leaves that kind out.
        seed: Of the order and of what is drawn.
    """
    found: dict[str, Sentence] = {}
    measured = set(_measured())
    for kind, text in _all(folder, seed):
        digest = _digest(text)
        if 2 <= len(text) <= LONGEST and _PLAIN.fullmatch(text) and digest not in measured:
            found.setdefault(digest, Sentence(kind, text, int(digest[-12:], 16) % HELD_OUT_OF == 0))
    ordered = [found[digest] for digest in sorted(found)]
    random.Random(seed).shuffle(ordered)
    return ordered


def _digest(text: str) -> str:
    """A hash of the words of a text."""
    return hashlib.sha256(" ".join(re.findall(r"[a-z0-9']+", text.lower())).encode()).hexdigest()


def _measured() -> Iterator[str]:
    """Digests of the texts that figures are taken on."""
    for path in sorted(EVAL_SETS.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield _digest(json.loads(line)["question_text"])


def _all(folder: Path | None, seed: int) -> Iterator[tuple[str, str]]:
    asked, told = [item.text for item in questions()], [item.text for item in answers()]
    dice = random.Random(seed)
    for kind, texts, most in (("question", asked, QUESTIONS), ("answer", told, ANSWERS)):
        for text in dice.sample(texts, min(most, len(texts))):
            yield kind, text
    for text in word_lists(asked + told)[:WORD_LISTS]:
        yield "words", text
    ordinary = list(ordinary_english(folder)) if folder else []
    for text in dice.sample(ordinary, min(ORDINARY, len(ordinary))):
        yield "ordinary", text
    kinds = list(_MADE.items())
    for number in range(MADE):
        kind, make = kinds[number % len(kinds)]
        yield kind, make(dice).strip()
    for _ in range(LONG):
        yield "long", " ".join(dice.sample(told, dice.randint(2, 3)))


def ordinary_english(folder: Path) -> Iterator[str]:
    """Sentences of 3 to 30 words from the files of a folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix or not path.is_file():
            continue
        for entry in path.read_text(encoding="utf-8", errors="ignore").split("\n%\n"):
            for text in re.split(r"(?<=[.!?]) ", re.sub(r"\s+", " ", entry).strip()):
                if 3 <= len(text.split()) <= 30 and re.fullmatch(r"[A-Z].*[.!?]", text):
                    yield text


Dice = random.Random


def _number(dice: Dice) -> str:
    one = dice.choice([dice.randint(0, 20), dice.randint(21, 100), dice.randint(101, 9999), dice.randint(10**4, 10**7)])
    return dice.choice(
        [
            f"The answer is {one}.",
            f"There are {one} of them in {dice.choice(PLACES)}.",
            f"{one}, {one + 1}, and {one + 2}.",
            f"About {dice.randint(1, 99)}% said yes.",
        ]
    )


def _day(dice: Dice) -> str:
    year = f"{dice.choice(MONTHS)} {dice.randint(1, 28)}, {dice.randint(1750, 2035)}"
    return dice.choice([year, f"the {dice.choice(ORDINALS)} of {dice.choice(MONTHS)}"])


def _date(dice: Dice) -> str:
    frames = ("It happened on {}.", f"Your next appointment is on {dice.choice(DAYS)}, {{}}.")
    return dice.choice([*frames, f"Was {dice.choice(FIRST_NAMES)} born on {{}}?"]).format(_day(dice))


def _time(dice: Dice) -> str:
    hour = dice.randint(1, 12)
    told = dice.choice([f"{hour}:{dice.randint(0, 59):02d} {dice.choice(['am', 'pm'])}", f"{hour} o'clock"])
    first, then = (f"{dice.randint(1, 12)}:{dice.choice([0, 5, 10, 15, 20, 30, 40, 45, 50]):02d}" for _ in range(2))
    place, day = dice.choice(PLACES), dice.choice(DAYS)
    frames = [
        f"It is {told} in {place}.",
        f"The train to {place} leaves at {told}.",
        f"Set an alarm for {told} on {day}.",
        f"The shop is open from {first} to {then} on {day}.",
        f"{day} at {first} or at {then}, {dice.choice(FIRST_NAMES)} said.",
        f"At {first} {dice.choice(FIRST_NAMES)} leaves for {place}, and at {then} {dice.choice(FIRST_NAMES)} does.",
    ]
    return dice.choice(frames)


def _price(dice: Dice) -> str:
    price = f"${dice.randint(0, 1999)}.{dice.randint(0, 99):02d}"
    other = f"It costs {price} instead of ${dice.randint(5, 900)}."
    return dice.choice([f"That will be {price}, please.", other, f"Is {price} too much?"])


def _name(dice: Dice) -> str:
    name = f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}"
    both = f"Dr. {name} and Mr. {dice.choice(LAST_NAMES)} will be there."
    lives = f"{name} lives in {dice.choice(PLACES)}."
    return dice.choice([lives, both, f"Have you met {name}?", f"My name is {name}."])


def _address(dice: Dice) -> str:
    return f"{dice.randint(1, 2400)} {dice.choice(STREETS)} {dice.choice(KINDS)}, {dice.choice(PLACES)}."


def _list(dice: Dice) -> str:
    return f"You need {', '.join(dice.sample(THINGS, dice.randint(2, 6)))}, and {dice.choice(THINGS)}."


def _exclamation(dice: Dice) -> str:
    after = ["", f"See you on {dice.choice(DAYS)}!", f"Say hello to {dice.choice(FIRST_NAMES)}!"]
    return f"{dice.choice(FEELINGS)} {dice.choice([*after, f'I will be in {dice.choice(PLACES)}.'])}"


def _spelled(dice: Dice) -> str:
    letters = ", ".join(dice.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", dice.randint(3, 6)))
    flight = f"Flight {dice.choice('ABDKLU')}{dice.choice('AFLSX')} {dice.randint(10, 2999)} to {dice.choice(PLACES)}."
    call = f"Call {dice.randint(200, 999)}-{dice.randint(200, 999)}-{dice.randint(1000, 9999)}."
    return dice.choice([f"It is spelled {letters}.", flight, call])


def _measure(dice: Dice) -> str:
    warm = f"it is {dice.randint(-20, 40)} degrees there on {dice.choice(DAYS)}"
    return f"{dice.choice(PLACES)} is {dice.randint(2, 900)} km away, and {warm}."


def _amount(dice: Dice) -> str:
    thing = dice.choice(["people", "miles", "feet", "square meters", "dollars", "votes", "books", "calories"])
    amount = dice.choice(
        [f"{dice.randint(1, 999)},{dice.randint(0, 999):03d}", f"{dice.randint(0, 99)}.{dice.randint(1, 9)}"]
    )
    time = f"{dice.randint(2, 11)} hours and {dice.randint(2, 59)} minutes"
    frames = [
        f"That makes {amount} {thing} in {dice.choice(PLACES)}.",
        f"From {dice.choice(PLACES)} to {dice.choice(PLACES)} it takes {time}.",
        f"{dice.randint(2, 60)} of the {dice.randint(61, 900)} {thing} were new, and {dice.randint(2, 98)}% were old.",
        f"Platform {dice.randint(1, 24)}, coach {dice.randint(1, 30)}, seat {dice.randint(1, 99)}.",
    ]
    return dice.choice(frames)


def _short(dice: Dice) -> str:
    first, then = dice.sample(["USB", "BBC", "NASA", "GPS", "UK", "EU", "PDF", "DNA", "VIP", "IBM", "LED", "CD"], 2)
    return dice.choice(
        [
            f"Is the {first} in {dice.choice(PLACES)}?",
            f"No {first}, no {then}.",
            f"{first} and {then} are different things.",
        ]
    )


_MADE: dict[str, Callable[[Dice], str]] = {
    "number": _number,
    "date": _date,
    "time": _time,
    "price": _price,
    "name": _name,
    "address": _address,
    "list": _list,
    "exclamation": _exclamation,
    "spelled": _spelled,
    "measure": _measure,
    "amount": _amount,
    "short": _short,
}
