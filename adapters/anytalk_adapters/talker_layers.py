"""Implements the layers of the output adapter ``talker``: attention by time, and the adapter's cache.

Two kinds of things have a time: steps of speech (one per codec frame), and letters of the text, each at the time at
which it is expected to be spoken. Rotary positions (arXiv 2104.09864) see only differences of time, so "what is spoken
about now" looks the same everywhere. Each head of the attention from speech to letters prefers letters at a learned
distance from now, with a learned width, and so starts close to what it has to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.caches import KeyValueCache

HEAD_WIDTH = 64
_FIRST_OFFSETS = (-8.0, 4.0)
_FIRST_SPREAD = 2.0
"""The heads' initial windows, in steps: from letters spoken 8 steps ago (a delay pattern's last stream lags so much) to
letters 4 steps ahead."""
_ROTARY_BASE = 10_000.0
NEVER = 1 << 30
"""Arrival of a slot without a letter."""
FAR = 1e4
"""Distance in steps of a letter that hasn't arrived: not infinite, so that gradients stay finite."""


def rotate(x: Tensor, times: Tensor) -> Tensor:
    """Rotate (B,H,L,HEAD_WIDTH) by times (B,L) float32 in steps."""
    half = x.shape[-1] // 2
    rates = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = times[:, None, :, None] * rates  # (B,1,L,HEAD_WIDTH/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def split_heads(x: Tensor) -> Tensor:
    """Split (B,L,H*HEAD_WIDTH) into heads (B,H,L,HEAD_WIDTH)."""
    return x.view(*x.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """Attend from (B,H,L,w) to (B,H,M,w); return (B,L,H*w). The mask is (B,L,M) bool, or (B,H,L,M) added to scores."""
    seen = mask[:, None] if mask is not None and mask.dim() == 3 else mask
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, is_causal=causal)
    return found.transpose(1, 2).flatten(2)


class TalkerMemory:
    """Holds the steps of answers, and the letters that have arrived so far.

    Attributes:
        steps: Keys and values of the steps.
        letters: Keys and values of the letters, with two more entries: ``come`` (:attr:`arrival` and :attr:`end`), and
            ``said`` (the times at which letters are spoken, to their ends and to their middles).
        arrival: (B,C), the step in which each letter arrived; NEVER in empty slots. None if no letter has arrived yet.
        end: (B,C) float32, the time at which each letter would end if all took the expected number of steps.
        middle: (B,C) float32, the time at which the middle of each letter is spoken.
    """

    def __init__(self) -> None:
        self.steps, self.letters = KeyValueCache(1), KeyValueCache(1)
        self.arrival: Tensor | None = None
        self.end: Tensor | None = None
        self.middle: Tensor | None = None
        self._counts: list[int] = [0]

    @property
    def length(self) -> int:
        """Return the number of steps in the longest row."""
        return self.steps.length

    def places(self, steps: int, device: torch.device) -> Tensor:
        """Return the indices of the next steps in their own answers, (1,steps) or (B,steps)."""
        return self.steps.rows.positions(steps, device)

    def arrive(self, arrival: Tensor, end: Tensor) -> None:
        """Add letters (B,n) that arrive in the next steps; in each row they come before its empty slots."""
        if self.arrival is None:
            self.steps, self.letters = KeyValueCache(len(arrival)), KeyValueCache(len(arrival))
        # Rows get different numbers of letters; the cache counts them per row, so empty slots are overwritten later.
        self._counts = (arrival < NEVER).sum(dim=1).tolist()
        came = self.letters.write("come", torch.stack([arrival.to(end.dtype), end])[:, :, None, :, None])
        self._show(came, arrival.shape[1])

    def speak(self, durations: Tensor) -> Tensor:
        """Set how many steps the letters that arrived last take, (B,n); return the times of their middles, (B,n)."""
        before = torch.zeros_like(durations[:, :1])
        if self.letters.length:
            assert self.arrival is not None
            spoken = self.letters.held("said")[0, :, 0, :, 0]
            known = self._own(0, spoken.device) & (self.arrival[:, : spoken.shape[1]] < NEVER)
            # Letters are spoken one after another: the new ones begin where the last known one ends.
            before = torch.where(known, spoken, 0.0).amax(dim=1, keepdim=True)
        ends = before + durations.cumsum(dim=1)
        middles = ends - durations / 2
        said = self.letters.write("said", torch.stack([ends, middles])[:, :, None, :, None])
        self.middle = said[1, :, 0, :, 0]
        return middles

    def advance(self, steps: int) -> None:
        """Count the steps that all layers have added, and the letters that arrived with them."""
        self.steps.advance(steps)
        self.letters.advance(self._counts)

    def join(self, other: TalkerMemory) -> None:
        """Add the rows of another cache after these."""
        self.steps.join(other.steps)
        self.letters.join(other.letters)
        self._change()

    def take(self, row: int) -> TalkerMemory:
        """Return a cache of this row alone."""
        taken = TalkerMemory()
        taken.steps, taken.letters = self.steps.take(row), self.letters.take(row)
        taken._change()
        return taken

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self.steps.keep_rows(rows)
        self.letters.keep_rows(rows)
        self._change()

    def crop(self, length: int) -> None:
        """Remove the steps after the first `length` of each row, and the letters that arrived with them."""
        self.steps.crop(length)
        if self.arrival is not None:
            left = torch.tensor(self.steps.rows.lengths, device=self.arrival.device)[:, None]
            # A letter goes with the step in which it arrived.
            self.letters.crop((self.arrival < left).sum(dim=1).tolist())
        self._change()

    def _change(self) -> None:
        if self.letters.length:
            self._show(self.letters.held("come"), 0)

    def _show(self, came: Tensor, new: int) -> None:
        """Set :attr:`arrival` and :attr:`end` from letters (2,B,1,C,1), of which `new` aren't counted yet."""
        arrival, self.end = came[:, :, 0, :, 0]
        self.arrival = torch.where(self._own(new, came.device), arrival, NEVER)

    def _own(self, new: int, device: torch.device) -> Tensor:
        """Return (B,C) bool, which slots of letters a row holds, counting `new` more than it has advanced by."""
        lengths = torch.tensor(self.letters.rows.lengths, device=device)[:, None] + new
        return torch.arange(self.letters.length + new, device=device) < lengths


class Mlp(nn.Sequential):
    """Applies two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))


class LetterBlock(nn.Module):
    """Lets a letter attend to letters that arrived with it or earlier, so that later tokens change nothing."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden_width)

    def forward(self, x: Tensor, times: Tensor, mask: Tensor, memory: TalkerMemory, name: str) -> Tensor:
        """Transform (B,n,W) new letters at times (B,n); the mask (B,n,C) runs over all letters."""
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        keys, values = memory.letters.append(name, rotate(key, times), value)  # all letters so far
        x = x + self.attention_out(attend(rotate(query, times), keys, values, mask))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Window(nn.Module):
    """Scores how far each letter is from where each head prefers letters, by a learned distance and width."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.linspace(*_FIRST_OFFSETS, num_heads))
        self.spread = nn.Parameter(torch.full((num_heads,), _FIRST_SPREAD))

    def forward(self, away: Tensor) -> Tensor:
        """Return what to add to attention scores, (B,H,T,C): 0 at the preferred distance `away` (B,T,C), else less."""
        return -0.5 * ((away[:, None] - self.offset[:, None, None]) / self.spread[:, None, None]).square()


class SpeechBlock(nn.Module):
    """Lets a step of speech attend to the steps before it, and then to the letters that have arrived."""

    def __init__(self, width: int, letter_width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.letter_norm = nn.LayerNorm(width)
        self.letter_query = nn.Linear(width, width)
        self.letter_keys = nn.Linear(letter_width, 2 * width)
        self.letter_out = nn.Linear(width, width)
        self.window = Window(width // HEAD_WIDTH)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden_width)

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        letters: Tensor,
        letter_times: Tensor,
        away: Tensor,
        memory: TalkerMemory,
        name: str,
    ) -> Tensor:
        """Run one layer.

        Args:
            x: (B,T,W) steps.
            times: (B,T) times of the steps.
            letters: (B,n,W') letters that arrived with these steps.
            letter_times: (B,n) times of these letters.
            away: (B,T,C) float32, how many steps after each step each letter is spoken; FAR if it hasn't arrived.
            memory: The cache of earlier steps and letters; this layer appends to it.
            name: The layer's key in the cache.
        """
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        begins, steps = memory.length == 0, x.shape[1]
        keys, values = memory.steps.append(name, rotate(key, times), value)
        # No mask is needed for rows of one length with a single new step, nor for a start, which is causal.
        seen = None
        if not memory.steps.rows.are_level or (steps > 1 and not begins):
            seen = memory.steps.rows.seen(steps, x.device)
        x = x + self.attention_out(attend(rotate(query, times), keys, values, seen, causal=begins and steps > 1))
        # Letters keep their own times as positions, so the attention sees how far in time a letter is from a step.
        query = rotate(split_heads(self.letter_query(self.letter_norm(x))), times)
        key, value = (split_heads(part) for part in self.letter_keys(letters).chunk(2, dim=-1))
        keys, values = memory.letters.append(f"letter.{name}", rotate(key, letter_times), value)
        x = x + self.letter_out(attend(query, keys, values, self.window(away).to(query.dtype)))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out
