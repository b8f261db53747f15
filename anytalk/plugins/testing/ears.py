"""Checks the promises of :class:`~anytalk.plugins.contracts.Ears` on two short pieces of noise."""

from __future__ import annotations

from typing import Any

import torch

from anytalk.plugins.contracts import Ears, Heard
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built


def check_ears(
    name_or_part: str | Ears, registry: Registry | None = None, options: dict[str, Any] | None = None
) -> None:
    """Check each clip's text (equal alone, beside another clip and in pieces), and a confidence from 0 to 1."""
    part, name = built("ears", name_or_part, registry, options)
    assert isinstance(part, Ears), f"{name}: a {type(part).__name__} is not Ears"
    assert part.sample_rate_hz > 0, f"{name}: sample_rate_hz is {part.sample_rate_hz}"
    torch.manual_seed(0)
    waves = [0.05 * torch.randn(part.sample_rate_hz), 0.05 * torch.randn(part.sample_rate_hz // 2)]
    heard = part.listen(waves)
    assert len(heard) == 2, f"{name}: {len(heard)} results for 2 clips"
    for wave, clip in zip(waves, heard, strict=True):
        assert isinstance(clip, Heard), f"{name}: gives a {type(clip).__name__}, expected Heard"
        assert clip.text is not None, f"{name}: gives no text"
        sure = clip.confidence
        assert sure is None or 0 <= sure <= 1, f"{name}: confidence is {sure}, expected 0 to 1"
        (alone,) = part.listen([wave])
        assert alone.text == clip.text, f"{name}: a clip is heard otherwise beside another one"
    # Long enough to be cut: a second of noise, one of near silence, one of noise, nine times over.
    speech = torch.cat([waves[0], 1e-4 * waves[0], waves[0]] * 9)
    found = [part.first_cut(speech[:end]) for end in range(0, len(speech), part.sample_rate_hz)]
    at = part.first_cut(speech)
    assert 0 <= at < len(speech), f"{name}: first_cut is {at} of {len(speech)} samples"
    assert sorted({*found, at} - {0}) == ([at] if at else []), f"{name}: later sound moves the first cut: {found}, {at}"
    if at:
        whole, *pieces = (part.listen([wave])[0] for wave in (speech, speech[:at], speech[at:]))
        assert whole == Heard.joined(pieces), f"{name}: a clip is heard otherwise in the pieces that it is cut into"
