"""Long answers leave old speech out of their caches: what stays keeps its place, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from talkers import (
    STREAMS,
    end_audio_after,
    end_text_after,
    generation_of,
    hf_talker,
    make_talker,
    spoken,
    with_plain_caches,
)
from test_lean import decoder_of

from anytalk.decode import reach
from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot, slot_row
from anytalk.decode.ready import make_talker_ready
from anytalk.decode.runner import Runner, columns_of
from anytalk.plugins.contracts import ForgetfulCache, JoinableCache
from anytalk.plugins.hf import new_hf_cache
from anytalk.plugins.hf.causal_lm import HFBlocks
from anytalk.plugins.hf.lean import LeanDecoder
from anytalk.plugins.hf.static_step import StaticDecoder

STEPS, FIRST, STOP, READ = 12, 2, 5, 8  # steps 2, 3 and 4 are left out once 8 have been read


def hidden_from_the_ninth_on() -> torch.Tensor:
    """(1,1,T,T), what is added to scores: causal, and steps that were forgotten are hidden from all later ones."""
    seen = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    seen[READ:, FIRST:STOP] = False
    return torch.zeros(STEPS, STEPS).masked_fill(~seen, -torch.inf)[None, None]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("kind", ["transformers", "lean", "static"])
def test_what_is_left_keeps_its_place(family: str, kind: str) -> None:
    with torch.no_grad():
        decoder = decoder_of(family)
        embeds = torch.randn(2, STEPS, 48)
        positions = torch.arange(STEPS)[None]
        wanted = decoder(
            inputs_embeds=embeds, attention_mask=hidden_from_the_ninth_on(), position_ids=positions
        ).last_hidden_state
        made = {"lean": LeanDecoder, "static": StaticDecoder}
        run = HFBlocks(decoder if kind == "transformers" else made[kind](decoder, "fused"))
        cache: Any = run.new_cache(2, STEPS - (STOP - FIRST))  # no room for all of them at once
        pieces = [run(embeds[:, :READ], cache)]
        assert isinstance(cache, ForgetfulCache)
        cache.forget(FIRST, STOP)
        assert cache.length == READ - (STOP - FIRST)
        pieces += [run(piece, cache) for piece in embeds[:, READ:].split(1, dim=1)]
        assert cache.length == STEPS - (STOP - FIRST)
        torch.testing.assert_close(torch.cat([p.clone() for p in pieces], dim=1), wanted, atol=2e-5, rtol=1e-4)


def test_a_static_step_finds_positions_far_behind_its_memory() -> None:
    with torch.no_grad():
        decoder = decoder_of()
        lean, static = LeanDecoder(decoder, "fused"), StaticDecoder(decoder, "fused")
        caches = lean.new_cache(1, 12), static.new_cache(1, 12)
        for _ in range(40):
            step = torch.randn(1, 1, 48)
            found, wanted = static(step, caches[1]).normed.clone(), lean(step, caches[0]).normed
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
            if caches[0].length == 10:
                for cache in caches:
                    cache.forget(2, 7)
        assert caches[0].rows.forgotten == [35]


def abilities(decoder: torch.nn.Module) -> tuple[bool, bool]:
    """Whether a decoder's cache joins, and whether it forgets."""
    cache = new_hf_cache(decoder, 1)
    return isinstance(cache, JoinableCache), isinstance(cache, ForgetfulCache)


def test_caches_that_could_not_keep_places_do_not_forget() -> None:
    whole = decoder_of("llama")
    assert abilities(whole) == (True, True)
    whole.config.sliding_window = 4
    assert abilities(whole) == (True, False)
    whole.config.sliding_window, whole.config.alibi = None, True
    assert abilities(whole) == (True, False)
    sliding = decoder_of(use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert abilities(sliding) == (True, False)
    whole.config.layer_types = ["chunked_attention"]
    assert abilities(whole) == (False, False)


@pytest.mark.parametrize("kind", ["transformers", "lean"])
def test_rows_that_forgot_are_joined_and_gaps_elsewhere_are_refused(kind: str) -> None:
    decoder = decoder_of()
    run = HFBlocks(decoder if kind == "transformers" else LeanDecoder(decoder, "fused"))
    with torch.no_grad():
        embeds = torch.randn(2, 10, 48)
        caches: list[Any] = [run.new_cache(1, 16) for _ in range(2)]
        wanted = []
        for row, cache in enumerate(caches):
            run(embeds[row : row + 1, : 6 + row], cache)
            if row == 0:
                cache.forget(2, 4)
            alone = cache.take(0)
            wanted.append(run(embeds[row : row + 1, 8:], alone))
        with pytest.raises(ValueError, match="left out"):
            caches[0].forget(1, 2)
        caches[0].join(caches[1])
        found = run(embeds[:, 8:], caches[0])
        torch.testing.assert_close(found, torch.cat(wanted), atol=2e-5, rtol=1e-4)
        assert caches[0].rows.lengths == [6, 9]
        with pytest.raises(ValueError, match="left out"):
            caches[0].forget(7, 9)


def long_answer(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns_of_speech: int,
    arithmetic: str = "exact",
    adapter: str = "blocks",
) -> tuple[Generation, np.ndarray, list[int]]:
    """An answer with six columns of text and 60 in all; how many columns the backbone held behind each of them."""
    monkeypatch.setattr(reach, "FORGOTTEN_AT_ONCE", 4)
    torch.manual_seed(0)
    talker = make_talker_ready(hf_talker(folder, adapter), arithmetic)
    end_text_after(talker, 5, monkeypatch)
    end_audio_after(talker, 10_000, monkeypatch)
    held: list[int] = []
    run = Runner._run

    def watched(self: Runner, active: list[Slot]) -> Any:
        found = run(self, active)
        backbone, adapter = (lane.cache_of(slot_row(active[0], 0)) for lane in (self._backbone, self._adapter))
        assert backbone is not None
        held.append(backbone.length)
        assert adapter is None or adapter.length == backbone.length
        return found

    monkeypatch.setattr(Runner, "_run", watched)
    generation = generation_of(talker)
    generation.options = DecodeOptions(max_columns=60, reach=columns_of_speech)
    columns = list(columns_of(generation))
    monkeypatch.undo()
    assert len(columns) == 60
    return generation, spoken(columns), held


@pytest.mark.parametrize("adapter", ["blocks", "none"])
def test_an_answer_holds_its_text_and_the_latest_speech(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation, audio, held = long_answer(tmp_path, monkeypatch, 10, adapter=adapter)
    prompt = generation.prompts[0].num_columns
    kept = prompt + 6
    monkeypatch.setattr(reach, "FORGOTTEN_AT_ONCE", 4)
    most = [reach.columns_held(kept, prompt + n, 10) for n in range(1, 60)]
    assert max(held) == max(most) == kept + 10 + 4
    assert all(n <= limit for n, limit in zip(held, most, strict=True))
    assert min(held[20:]) == kept + 10 + 1
    whole, all_audio, all_held = long_answer(tmp_path, monkeypatch, 0, adapter=adapter)
    assert all_held == [prompt + n for n in range(1, 60)]
    assert generation.answer.text_ids == whole.answer.text_ids
    # Up to the column before which the first four are left out, the answers are the same; then they part.
    same = 6 + 10 + 4
    np.testing.assert_array_equal(audio[:, :same], all_audio[:, :same])
    assert (audio[:, same:] != all_audio[:, same:]).any()


def test_fast_arithmetics_forget_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for arithmetic in ("exact", "fused", "graphs"):
        _, audio, held = long_answer(tmp_path, monkeypatch, 10, arithmetic)
        found.append((audio, held))
    for audio, held in found[1:]:
        np.testing.assert_array_equal(audio, found[0][0])
        assert held == found[0][1]


def test_a_cache_that_cannot_forget_keeps_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "FORGOTTEN_AT_ONCE", 4)
    made = []
    for columns_of_speech in (10, 0):
        talker = with_plain_caches(make_talker())
        end_text_after(talker, 5, monkeypatch)
        end_audio_after(talker, 10_000, monkeypatch)
        generation = generation_of(talker)
        generation.options = DecodeOptions(max_columns=40, reach=columns_of_speech)
        made.append(spoken(list(columns_of(generation))))
    assert made[0].shape == (STREAMS, 40)
    np.testing.assert_array_equal(*made)
