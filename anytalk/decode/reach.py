"""Limits how far back an answer looks, so that a long one neither slows down nor grows in memory.

A step attends to everything before it: the prompt, the answer's text and its own speech. Text has to stay, because it
is spoken long after it was written: the paper writes a token per column, and speaking a token takes three or four
columns. After the end of the text only speech follows, and for that only the latest speech matters (how a word
continues, and in which tone). So older columns of speech are dropped from the caches. All other columns keep their
positions, and their states, which were computed while the dropped columns were still there.
"""

from __future__ import annotations

from anytalk.model.talk_model import TalkCache
from anytalk.plugins.contracts import ForgetfulCache

REACH = 1024
"""How many columns of speech are kept: 82 s of SNAC, longer than the answers that talkers are trained on."""
FORGOTTEN_AT_ONCE = 256
"""How many columns are dropped together: moving the rest of the cache takes about as long as a step each time."""


def columns_held(kept: int, columns: int, reach: int = REACH) -> int:
    """Return how many of an answer's columns (with its prompt) a cache holds at most; the first `kept` always stay."""
    return columns if not reach else min(columns, kept + reach + FORGOTTEN_AT_ONCE)


def forget_old_speech(cache: TalkCache, kept: int, reach: int) -> None:
    """Drop columns of speech between the first `kept` and the last `reach`, many at once.

    If the cache of one part isn't a :class:`ForgetfulCache`, nothing is dropped.
    """
    surplus = cache.backbone.length - kept - reach
    if surplus < FORGOTTEN_AT_ONCE:
        return
    parts = [part for part in (cache.backbone, cache.output_adapter) if part is not None]
    forgetful = [part for part in parts if isinstance(part, ForgetfulCache)]
    if len(forgetful) == len(parts):
        for part in forgetful:
            part.forget(kept, kept + surplus)
