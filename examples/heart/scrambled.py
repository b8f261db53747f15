"""Sentences of words in no order, so that words are learned apart from their templates."""

from __future__ import annotations

import random
import re
from collections import Counter

WORD_LISTS = 6_000


def word_lists(texts: list[str]) -> list[str]:
    """Draw 3 to 8 words at a time from `texts`, each word about equally often; always the same sentences."""
    # As written inside a sentence, so that names keep their capitals.
    forms = Counter(re.sub(r"[^A-Za-z']", "", word) for text in texts for word in text.split()[1:])
    vocabulary: dict[str, str] = {}
    for form, _ in forms.most_common():
        if form:
            vocabulary.setdefault(form.lower(), form)
    chance = random.Random(0)
    found: dict[str, None] = {}
    bag: list[str] = []
    while len(found) < WORD_LISTS:
        size = chance.randint(3, 8)
        if len(bag) < size:
            bag += chance.sample(sorted(vocabulary.values()), len(vocabulary))
        drawn, bag = bag[:size], bag[size:]
        text = " ".join(drawn)
        found[text[0].upper() + text[1:] + "."] = None
    return list(found)
