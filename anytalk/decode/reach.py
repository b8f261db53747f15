"""How far back an answer looks, so that a long one neither slows down nor grows.

A step looks at everything before it: the prompt, the answer's text, and its own speech. Text has to stay, because the
voice speaks it long after it was written (the paper writes a token in each column, and a token takes three or four
columns to say). Once the text has ended, nothing but speech comes, and of that only the latest matters: how a word goes
on, and in which tone. So older columns of speech are left out of the caches. All others keep their positions, and what
was computed while they were still there.
"""

from __future__ import annotations

from anytalk.model.talk_model import TalkCache
from anytalk.plugins.contracts import ForgetfulCache

REACH = 1024
"""Columns of speech: 82 s of SNAC, more than anybody trains a single answer on."""
FORGOTTEN_AT_ONCE = 256
"""Moving the rest together costs about a step each time."""


def columns_held(kept: int, columns: int, reach: int = REACH) -> int:
    """Return how many of these columns (prompt and answer) a cache holds at most; the first `kept` always stay."""
    return columns if not reach else min(columns, kept + reach + FORGOTTEN_AT_ONCE)


def forget_old_speech(cache: TalkCache, kept: int, reach: int) -> None:
    """Leave out columns that lie after the first `kept` and before the last `reach`, speech alone, many at once.

    Where one of the parts can't forget, everything stays.
    """
    surplus = cache.backbone.length - kept - reach
    if surplus < FORGOTTEN_AT_ONCE:
        return
    parts = [part for part in (cache.backbone, cache.output_adapter) if part is not None]
    forgetful = [part for part in parts if isinstance(part, ForgetfulCache)]
    if len(forgetful) == len(parts):
        for part in forgetful:
            part.forget(kept, kept + surplus)
