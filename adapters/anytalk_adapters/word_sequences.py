"""Reads n-gram models of words: how likely a word is after those before it.

pocketsphinx (BSD-2-Clause) reads the file, and comes with a trigram model of American English (72,547 words). It also
reads ARPA files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from anytalk.errors import WeightsError
from anytalk.plugins.optional import require
from anytalk.plugins.sources import resolve

from .words_search import TextChance

_UNKNOWN = -1e4
"""Log probability below which pocketsphinx says that a word isn't in the model."""
_NEW_WORD = -12.0
"""Log probability of any word that isn't in the model."""
_COMMONEST, _RAREST = 0.0, -8.0
"""Bounds of what is added to that for how common the word is."""
_CACHED = 200_000


def follows(spec: str, folder: Path | None, common: TextChance) -> TextChance:
    """Return a function that says how likely a text's last word is after those before it, as a log probability.

    Args:
        spec: File of an n-gram model: a path, or ``package:...``.
        folder: Folder in which relative paths start.
        common: How common a text's last word is; used for words that aren't in the model.

    Raises:
        ConfigError: pocketsphinx isn't installed.
        WeightsError: a file that is missing, or that pocketsphinx can't read.
    """
    require("a hearing with `sequences`", "words", "pocketsphinx")
    log_probability, order = _open(resolve(spec, folder).path)

    @lru_cache(maxsize=_CACHED)
    def chance(words: tuple[str, ...]) -> float:
        known = log_probability(words)
        return known if known > _UNKNOWN else _NEW_WORD + min(max(common(words[-1]), _RAREST), _COMMONEST)

    return lambda text: chance(("<s>", *text.split())[-order:])


def _open(path: Path) -> tuple[Callable[[tuple[str, ...]], float], int]:
    """Read a model; return the log probability of the last of some words as a function, and the model's order."""
    import pocketsphinx

    logs = pocketsphinx.LogMath()
    try:
        model: Any = pocketsphinx.NGramModel(pocketsphinx.Config(lm=str(path)), logs, str(path))
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"'{path}' can't be read as an n-gram model: {error}",
            "give an ARPA file or one of pocketsphinx's, such as package:pocketsphinx/model/en-us/en-us.lm.bin",
        ) from None

    def log_probability(words: tuple[str, ...]) -> float:
        # pocketsphinx wants the last word first.
        return float(logs.log_to_ln(model.prob(list(words[::-1]))))

    return log_probability, int(model.size())
