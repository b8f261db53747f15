"""Builds the small voice-assistant set of this folder: facts through templates, and the messy rows of ``raw.jsonl``.

``python examples/data/build.py`` writes ``assistant.jsonl`` and ``assistant.dropped.jsonl`` with the cleaner of
``anytalk data clean``. The same input gives the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from anytalk.data.config import read_data_config, read_rows
from anytalk.plugins.contracts import Row
from anytalk.plugins.registry import default_registry
from anytalk.text.clean import Cleaner, Tally, clean_to_files
from anytalk.text.rules import Rules

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import facts  # noqa: E402 - it lies beside this file

RULES = Rules(max_question_s=10, max_answer_s=12)


def template_pairs() -> Iterator[tuple[str, str]]:
    """Questions and answers as they are written, digits and all; wordings take turns."""
    for i, (country, city) in enumerate(facts.CAPITALS.items()):
        question = (f"What is the capital of {country}?", f"Which city is the capital of {country}?")[i % 2]
        yield question, (f"The capital of {country} is {city}.", f"It is {city}.", f"{city} is.")[i % 3]
    for i, (word, opposite) in enumerate(facts.OPPOSITES.items()):
        question = (f"What is the opposite of {word}?", f"Tell me the opposite of {word}.")[i % 2]
        yield question, (f"The opposite of {word} is {opposite}.", f"That would be {opposite}.")[i % 2]
    for i, day in enumerate(facts.DAYS):
        after, before = facts.DAYS[(i + 1) % 7], facts.DAYS[i - 1]
        yield f"Which day comes after {day}?", f"After {day} comes {after}."
        yield f"Which day is before {day}?", f"The day before {day} is {before}."
    for month, length in facts.MONTH_LENGTHS.items():
        more = ", and 29 in a leap year" if month == "February" else ""
        yield f"How many days does {month} have?", f"{month} has {length} days{more}."
    for i, (thing, colour) in enumerate(facts.COLOURS.items()):
        yield f"What color is {thing}?", (f"It is {colour}.", f"{thing[0].upper()}{thing[1:]} is {colour}.")[i % 2]
    for animal, legs in facts.LEGS.items():
        name = f"{animal[0].upper()}{animal[1:]}"
        yield (
            f"How many legs does {animal} have?",
            f"{name} has {legs} legs." if legs else f"{name} has no legs at all.",
        )
    for a, b in facts.SUMS:
        yield f"What is {a} + {b}?", f"{a} + {b} = {a + b}."
    for a, b in facts.DIFFERENCES:
        yield f"What is {a} - {b}?", f"{a} - {b} = {a - b}."
    for top in (3, 5, 10):
        yield f"Please count to {top}.", ", ".join(str(n) for n in range(1, top + 1)) + "."
    yield from chain(facts.MEASURES, facts.HISTORY, facts.SMALL_TALK)
    for thing, meaning in facts.DEFINITIONS.items():
        yield f"What is {thing}?", f"{thing[0].upper()}{thing[1:]} is {meaning}."
    for first, second in facts.PROVERBS:
        yield f"How does this proverb go on: {first} ...", f"{first} {second}."
    for poet, lines in facts.VERSES:
        yield f"Can you say two lines by {poet}?", lines if lines.endswith("?") else f"{lines}."


def build(target: Path) -> Tally:
    """Clean templates and raw rows into a manifest."""
    made = (
        Row(id=f"templates:{number}", question_text=question, answer_text=answer)
        for number, (question, answer) in enumerate(template_pairs(), start=1)
    )
    (raw,) = read_data_config(HERE / "raw.jsonl").sources
    return clean_to_files(chain(made, read_rows(raw, default_registry(), keep_blank=True)), target, Cleaner(RULES))


if __name__ == "__main__":
    tally = build(HERE / "assistant.jsonl")
    print(f"{tally.kept} of {tally.rows} rows kept; dropped: {dict(tally.drops)}")
