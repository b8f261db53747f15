"""Steps of fixed shapes are the lean decoder's steps; what a graph would record depends on no number of the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_lean import decoder_of

from anytalk.bench.reference import reference_talker
from anytalk.decode.ready import make_talker_ready
from anytalk.plugins.hf.lean import LeanDecoder
from anytalk.plugins.hf.static_step import StaticDecoder


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_static_steps_are_lean_steps(family: str) -> None:
    decoder = decoder_of(family)
    lean, static = LeanDecoder(decoder, "fused"), StaticDecoder(decoder, "graphs")
    embeds = torch.randn(2, 20, 48)
    wanted = lean(embeds)
    cache = static.new_cache(2, 24)
    pieces = [static(embeds[:, :9], cache)]
    for memory in cache.layers.values():
        memory[:, :, :, 9:] = torch.nan  # memory that was never written may hold anything
    pieces += [static(piece, cache) for piece in embeds[:, 9:].split(1, dim=1)]
    for which in (0, 1):
        found = torch.cat([piece[which] for piece in pieces], dim=1)
        torch.testing.assert_close(found, wanted[which], atol=2e-5, rtol=2e-5)


def test_dropped_rows_and_cropped_steps() -> None:
    decoder = decoder_of()
    static, embeds = StaticDecoder(decoder, "graphs"), torch.randn(1, 12, 48)
    wanted = LeanDecoder(decoder, "fused")(embeds).normed
    cache = static.new_cache(1, 14)
    static(embeds[:, :8], cache)
    cache.keep_rows([0, 0])
    static(embeds[:, 8:9].repeat(2, 1, 1), cache)
    cache.keep_rows([0])
    torch.testing.assert_close(static(embeds[:, 9:10], cache).normed, wanted[:, 9:10], atol=2e-5, rtol=2e-5)
    cache.crop(8)
    for step in range(8, 12):
        found = static(embeds[:, step : step + 1], cache).normed
        torch.testing.assert_close(found, wanted[:, step : step + 1], atol=2e-5, rtol=2e-5)


def test_steps_go_on_in_a_memory_that_grew() -> None:
    decoder = decoder_of()
    static, embeds = StaticDecoder(decoder, "graphs"), torch.randn(1, 9, 48)
    wanted, cache = LeanDecoder(decoder, "fused")(embeds).normed, static.new_cache(1, 6)
    pieces = [static(piece, cache).normed.clone() for piece in embeds.split([4, 1, 1, 1, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, atol=2e-5, rtol=2e-5)


def test_no_shape_changes_from_step_to_step() -> None:
    """Every operation sees the same shapes and moves no number to the host: what recording a graph asks for."""
    static = StaticDecoder(decoder_of(), "graphs")
    cache = static.new_cache(1, 16)
    static(torch.randn(1, 5, 48), cache)

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        seen: list[Any]

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "local_scalar" not in str(function), "a number was read from the device"
            made = function(*args, **(kwargs or {}))
            self.seen.append((str(function), getattr(made, "shape", None)))
            return made

    traces = []
    for _ in range(3):
        with Shapes() as shapes:
            shapes.seen = []
            static(torch.randn(1, 1, 48), cache)
        traces.append(shapes.seen)
    # The first step prepares its tensors; all later ones are the same, operation by operation.
    assert traces[1] == traces[2]


def test_a_talker_answers_the_same_with_graphs() -> None:
    from test_bench import WAVE

    from anytalk.decode.engine import DecodeOptions
    from anytalk.decode.session import Session
    from anytalk.decode.telling import AnswerDone, AudioDelta

    made = []
    for arithmetic in ("fused", "graphs"):
        talker = make_talker_ready(reference_talker("tiny"), arithmetic)
        events = list(Session(talker).ask(wave=WAVE, options=DecodeOptions(max_columns=14)))
        done = events[-1]
        assert isinstance(done, AnswerDone)
        made.append((done.text, torch.cat([torch.from_numpy(e.wave) for e in events if isinstance(e, AudioDelta)])))
    assert made[0][0] == made[1][0]
    torch.testing.assert_close(made[0][1], made[1][1], atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_replays_the_same_on_a_gpu() -> None:
    decoder = decoder_of().cuda()
    lean, static = LeanDecoder(decoder, "fused"), StaticDecoder(decoder, "graphs")
    embeds = torch.randn(1, 12, 48, device="cuda")
    wanted = lean(embeds).normed
    cache = static.new_cache(1, 16)
    pieces = [static(piece, cache).normed.clone() for piece in embeds.split([6, *[1] * 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, atol=1e-3, rtol=1e-3)
