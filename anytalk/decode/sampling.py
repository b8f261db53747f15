"""Chooses tokens from logits. The functions are pure; the caller owns the random state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anytalk.errors import ConfigError, WeightsError


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options for sampling the tokens of one stream."""

    temperature: float = 0.0  # 0 takes the likeliest token; of the other options only the penalty matters then
    top_k: int = 0  # sample among the k likeliest; 0 for all
    top_p: float = 1.0  # sample among the likeliest that together reach this probability; 1 for all
    # Values above 1 make recent tokens less likely: positive logits are divided by it, negative ones multiplied.
    repetition_penalty: float = 1.0
    repetition_window: int = 64  # how many recent tokens the penalty looks at

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0 (1 is off)"),
            ("repetition_window", self.repetition_window >= 0, "0 or more"),
        ):
            if not good:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; expected {expected}", f"change --{name.replace('_', '-')}"
                )


GREEDY = SamplingOptions()


def on_host(logits: Tensor) -> Tensor:
    """Move logits to the CPU, where tokens are chosen, so that a GPU is waited for only once."""
    return logits.cpu()


def choose(
    logits: Tensor, options: SamplingOptions, recent: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Choose one token per row.

    Args:
        logits: (R,V); illegal tokens are -inf.
        options: Sampling options, the same for all rows.
        recent: (R,n) tokens for the repetition penalty, or None; ids outside V are ignored.
        generator: Random state; None for torch's global one.

    Returns:
        (R,) int64.

    Raises:
        WeightsError: logits that are not numbers.
    """
    logits = logits.float()
    if options.repetition_penalty != 1.0 and recent is not None and recent.shape[1] and options.repetition_window:
        logits = _penalised(logits, recent[:, -options.repetition_window :], options.repetition_penalty)
    likeliest = logits.argmax(dim=-1)  # what is no number comes first
    if not bool(logits.gather(-1, likeliest[:, None]).isfinite().all()):
        raise WeightsError(
            "the model computes values that are not finite, so no token can be chosen",
            "are its weights damaged, or did training diverge? Take an earlier checkpoint, or attach the model again",
        )
    if options.temperature == 0:
        return likeliest
    logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        # Tokens as likely as the k-th stay, so ties can leave more than k.
        kth = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if options.top_p < 1:
        logits = _nucleus(logits, options.top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


def _penalised(logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    vocab = logits.shape[-1]
    is_known = (recent >= 0) & (recent < vocab)
    # Whether a token occurred matters, not how often.
    counts = torch.zeros_like(logits).scatter_add_(1, recent.clamp(0, vocab - 1), is_known.to(logits.dtype))
    return torch.where(counts > 0, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    # A token stays while those before it haven't reached top_p, so the likeliest always stays.
    drop = probs.cumsum(dim=-1) - probs >= top_p
    return logits.masked_fill(drop.scatter(1, order, drop), -torch.inf)
