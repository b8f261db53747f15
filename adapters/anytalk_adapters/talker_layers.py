"""The layers of the ``talker`` adapter: attention with rotary positions that are times, and its memory.

Two kinds of things have a place in time: steps of speech (one per codec frame) and letters of the text, each at the
time at which it is expected to be spoken. Rotary positions (arXiv 2104.09864) see differences only, so "what is spoken
about now" is the same direction everywhere; and each head of the attention from speech to letters looks at letters some
steps away from now, more or less sharply, so that it begins close to where it must end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
_FIRST_OFFSETS = (-8.0, 4.0)
_FIRST_SPREAD = 2.0
"""Where heads look before anything is learned, in steps: around letters said 8 steps ago (a delay pattern's last stream
lags so far behind) to 4 steps ahead."""
_ROTARY_BASE = 10_000.0
NEVER = 1 << 30
"""Arrival of a slot that holds no letter."""
FAR = 1e4
"""Steps away of a letter that hasn't come: not infinite, so that gradients stay numbers."""


def rotate(x: Tensor, times: Tensor) -> Tensor:
    """(B,H,L,HEAD_WIDTH) rotated by times (B,L) float32, in steps."""
    half = x.shape[-1] // 2
    rates = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = times[:, None, :, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def split_heads(x: Tensor) -> Tensor:
    """(B,L,H*HEAD_WIDTH) -> (B,H,L,HEAD_WIDTH)."""
    return x.view(*x.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """(B,H,L,w) x (B,H,M,w) with a mask (B,L,M) bool or (B,H,L,M) of numbers to add -> (B,L,H*w)."""
    seen = mask[:, None] if mask is not None and mask.dim() == 3 else mask
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, is_causal=causal)
    return found.transpose(1, 2).flatten(2)


def _padded(part: Tensor, length: int, name: str) -> Tensor:
    """(B,H,n,w) -> (B,H,length,w), zeros in front of steps, or behind letters."""
    missing = length - part.shape[2]
    return F.pad(part, (0, 0, missing, 0) if name.startswith("step") else (0, 0, 0, missing))


@dataclass
class TalkerMemory:
    """What the adapter remembers of an answer: steps, and the letters that have come so far.

    Attributes:
        length: Steps held.
        arrival: (B,C) int64, the step in which each letter came; NEVER for an empty slot.
        end: (B,C) float32, the time at which each letter would be over if all took equally long.
        spoken: (B,C) float32, the time at which each letter is said to its end.
        middle: (B,C) float32, and to its middle.
        keys: By name of an attention layer: (B,H,n,w) keys and values of steps or letters.
        empty: For each row, slots of steps in front that hold nothing; None while all rows are equally long.
    """

    length: int = 0
    arrival: Tensor | None = None
    end: Tensor | None = None
    spoken: Tensor | None = None
    middle: Tensor | None = None
    keys: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    empty: list[int] | None = None

    def places(self, steps: int, device: torch.device) -> Tensor:
        """(1,steps) or (B,steps): which steps of their own answers the next ones are."""
        places = torch.arange(self.length, self.length + steps, device=device)[None]
        return places if self.empty is None else places - torch.tensor(self.empty, device=device)[:, None]

    def join(self, other: TalkerMemory) -> None:
        """Add the rows of another memory behind these: shorter ones get empty steps in front and letters behind."""
        assert self.arrival is not None
        assert other.arrival is not None
        longest, letters = max(self.length, other.length), max(self.arrival.shape[1], other.arrival.shape[1])
        self.empty = [n + longest - m.length for m in (self, other) for n in m.empty or [0] * len(m.letters()[0])]
        self.arrival, self.end, self.spoken, self.middle = (
            torch.cat([F.pad(part, (0, letters - part.shape[1]), value=value) for part in pair])
            for pair, value in zip(zip(self.letters(), other.letters(), strict=True), (NEVER, 0, 0, 0), strict=True)
        )
        for name, mine in self.keys.items():
            target = longest if name.startswith("step") else letters
            pairs = zip(mine, other.keys[name], strict=True)
            keys, values = (torch.cat([_padded(part, target, name) for part in pair]) for pair in pairs)
            self.keys[name] = keys, values
        self.length = longest

    def take(self, row: int) -> TalkerMemory:
        """A memory of this row alone."""
        first = self.empty[row] if self.empty is not None else 0
        arrival, end, spoken, middle = (part[row : row + 1].clone() for part in self.letters())
        taken = TalkerMemory(self.length - first, arrival, end, spoken, middle)
        for name, (keys, values) in self.keys.items():
            begin = first if name.startswith("step") else 0
            taken.keys[name] = keys[row : row + 1, :, begin:].clone(), values[row : row + 1, :, begin:].clone()
        return taken

    def letters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is known of each letter: `arrival`, `end`, `spoken`, `middle`."""
        assert self.arrival is not None
        assert self.end is not None
        assert self.spoken is not None
        assert self.middle is not None
        return self.arrival, self.end, self.spoken, self.middle

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        if self.arrival is None or self.end is None or self.spoken is None or self.middle is None:
            return
        index = torch.tensor(list(rows), device=self.arrival.device)
        self.arrival, self.end = self.arrival[index], self.end[index]
        self.spoken, self.middle = self.spoken[index], self.middle[index]
        self.keys = {name: (k[index], v[index]) for name, (k, v) in self.keys.items()}
        if self.empty is not None:
            self._tighten([self.empty[row] for row in rows])

    def _tighten(self, empty: list[int]) -> None:
        """Give up slots that are empty in all rows."""
        spare = min(empty, default=0)
        self.empty = [n - spare for n in empty] if any(n > spare for n in empty) else None
        self.length -= spare
        used = (self.letters()[0] < NEVER).any(dim=0)
        self.arrival, self.end, self.spoken, self.middle = (part[:, used] for part in self.letters())
        self.keys = {
            name: (k[:, :, spare:], v[:, :, spare:]) if name.startswith("step") else (k[:, :, used], v[:, :, used])
            for name, (k, v) in self.keys.items()
        }

    def crop(self, length: int) -> None:
        """Forget the steps after the first `length`, and the letters that came with them."""
        self.length = min(self.length, length)
        if self.arrival is None:
            return
        self.arrival = torch.where(self.arrival >= self.length, NEVER, self.arrival)
        self.keys = {
            name: (k[:, :, : self.length], v[:, :, : self.length]) if name.startswith("step") else (k, v)
            for name, (k, v) in self.keys.items()
        }

    def arrive(self, arrival: Tensor, end: Tensor) -> None:
        """Letters (B,n) that come in these steps."""
        self.arrival = arrival if self.arrival is None else torch.cat([self.arrival, arrival], dim=1)
        self.end = end if self.end is None else torch.cat([self.end, end], dim=1)

    def speak(self, durations: Tensor) -> Tensor:
        """(B,n) steps that the letters that came last take -> (B,n) times of their middles."""
        assert self.arrival is not None
        before = torch.zeros_like(durations[:, :1])
        if self.spoken is not None:
            known = self.arrival[:, : self.spoken.shape[1]] < NEVER
            before = torch.where(known, self.spoken, 0.0).amax(dim=1, keepdim=True)
        ends = before + durations.cumsum(dim=1)
        middles = ends - durations / 2
        self.spoken = ends if self.spoken is None else torch.cat([self.spoken, ends], dim=1)
        self.middle = middles if self.middle is None else torch.cat([self.middle, middles], dim=1)
        return middles

    def extend(self, name: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B,H,n,w) behind those of a layer; all of them come back."""
        if name in self.keys:
            before = self.keys[name]
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        self.keys[name] = keys, values
        return keys, values


class Mlp(nn.Sequential):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))


class LetterBlock(nn.Module):
    """A letter looks at the letters that came with it or before it, so that no later token changes what is known."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden_width)

    def forward(self, x: Tensor, times: Tensor, mask: Tensor, memory: TalkerMemory, name: str) -> Tensor:
        """(B,n,W) new letters at times (B,n); mask (B,n,C) over all letters -> (B,n,W)."""
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        keys, values = memory.extend(name, rotate(key, times), value)
        x = x + self.attention_out(attend(rotate(query, times), keys, values, mask))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Window(nn.Module):
    """Where each head looks for letters: around how many steps from now, and how sharply."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.linspace(*_FIRST_OFFSETS, num_heads))
        self.spread = nn.Parameter(torch.full((num_heads,), _FIRST_SPREAD))

    def forward(self, away: Tensor) -> Tensor:
        """(B,T,C) steps -> (B,H,T,C) to add to scores: 0 where a head expects its letters, below that elsewhere."""
        return -0.5 * ((away[:, None] - self.offset[:, None, None]) / self.spread[:, None, None]).square()


class SpeechBlock(nn.Module):
    """A step of speech looks at the steps before it, then at the letters that have come."""

    def __init__(self, width: int, letter_width: int, hidden_width: int, looks_near: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.letter_norm = nn.LayerNorm(width)
        self.letter_query = nn.Linear(width, width)
        self.letter_keys = nn.Linear(letter_width, 2 * width)
        self.letter_out = nn.Linear(width, width)
        self.window = Window(width // HEAD_WIDTH) if looks_near else None
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
        """One layer.

        Args:
            x: (B,T,W) steps.
            times: (B,T) of the steps.
            letters: (B,n,W') letters that came with these steps.
            letter_times: (B,n).
            away: (B,T,C) float32, how many steps later each of all letters is said; FAR: it has not come yet.
            memory: What came before; it grows.
            name: Of this layer in the memory.
        """
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        begins = f"step.{name}" not in memory.keys
        keys, values = memory.extend(f"step.{name}", rotate(key, times), value)
        steps = x.shape[1]
        causal = None
        if steps > 1 and not begins:
            causal = torch.ones(steps, keys.shape[2], dtype=torch.bool, device=x.device)
            causal = causal.tril(keys.shape[2] - steps)[None]
        if memory.empty is not None:
            slots = torch.arange(keys.shape[2], device=x.device)
            held = slots[None, None] >= torch.tensor(memory.empty, device=x.device)[:, None, None]
            causal = held if causal is None else causal & held
        x = x + self.attention_out(attend(rotate(query, times), keys, values, causal, causal=begins and steps > 1))
        query = rotate(split_heads(self.letter_query(self.letter_norm(x))), times)
        key, value = (split_heads(part) for part in self.letter_keys(letters).chunk(2, dim=-1))
        keys, values = memory.extend(f"letter.{name}", rotate(key, letter_times), value)
        seen = away < FAR if self.window is None else self.window(away).to(query.dtype)
        x = x + self.letter_out(attend(query, keys, values, seen))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out
