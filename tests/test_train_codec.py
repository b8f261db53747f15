"""Training a codec: it learns, goes on as if never stopped, and what it writes is what the plugins load."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anytalk.errors import ConfigError, DataError
from anytalk.grid.audio import write_wave
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

sys.path.append(str(Path(__file__).parent.parent / "examples"))

import codec_parts
import train_codec
from train_codec import Run, Settings, find_recordings

SETTINGS = Settings("spectral", None, "all", 12, 0.0, 2, 4, 1e-3, 0.0, 0)
TINY_SNAC = {**codec_parts.SMALL_SNAC, "encoder_dim": 4, "decoder_dim": 32, "codebook_size": 16}


@pytest.fixture
def recordings(tmp_path: Path) -> list[train_codec.Recording]:
    chance = np.random.default_rng(0)
    for number, rate_hz in enumerate([16_000, 16_000, 22_050]):
        time_s = np.arange(rate_hz) / rate_hz
        wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * number) * time_s) + 0.01 * chance.standard_normal(rate_hz)
        write_wave(tmp_path / "speech" / f"{number}.wav", wave.astype(np.float32), rate_hz)
    return find_recordings(tmp_path / "speech")


def trained(settings: Settings, recordings: list[train_codec.Recording], out: Path, stop_at: int = 0) -> Run:
    run = Run(settings, recordings, out)
    plain = run.step

    def step() -> dict[str, float]:
        run.stops = bool(stop_at) and run.state.step + 1 == stop_at
        return plain()

    run.step = step  # type: ignore[method-assign]
    run.go(checkpoint_every=1000, log_every=1)
    return run


def same(first: Run, second: Run) -> bool:
    a, b = first.codec.state_dict(), second.codec.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"adversarial": 0.1, "steps": 4}])
def test_a_resumed_run_is_the_run(
    changes: dict[str, Any], recordings: list[train_codec.Recording], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **changes)
    whole = trained(settings, recordings, tmp_path / "a")
    half = trained(settings, recordings, tmp_path / "b", stop_at=settings.steps // 2)
    assert half.state.step == settings.steps // 2
    assert not half.weights.exists()
    resumed = trained(settings, recordings, tmp_path / "b")
    assert same(whole, resumed)
    losses = [line["spectral"] for line in whole.state.log]
    assert losses == [line["spectral"] for line in resumed.state.log]
    assert losses[-1] < losses[0]
    with pytest.raises(ConfigError, match="other settings"):
        Run(replace(settings, seed=5), recordings, tmp_path / "b")


def test_the_plugin_loads_what_was_trained(recordings: list[train_codec.Recording], tmp_path: Path) -> None:
    run = trained(replace(SETTINGS, steps=3), recordings, tmp_path / "a")
    codec = default_registry().build("codec", PartRef(name="spectral", options={"model": str(run.weights)}))
    wave = train_codec.crops(run.recordings, SETTINGS, 0, 16_000, 4 * 1280)
    assert codec.encode(wave).shape == (2, 7, 4)
    assert (tmp_path / "a" / "loss.png").stat().st_size > 1000


def test_the_decoder_alone_keeps_all_codes(recordings: list[train_codec.Recording], tmp_path: Path) -> None:
    settings = replace(SETTINGS, init="SHIPPED", train="decoder", steps=3)
    run = trained(settings, recordings, tmp_path / "a")
    shipped, mine = (
        default_registry().build("codec", PartRef(name="spectral", options=options))
        for options in ({}, {"model": str(run.weights)})
    )
    wave = train_codec.crops(run.recordings, settings, 9, 16_000, 8 * 1280)
    codes = shipped.encode(wave)
    assert torch.equal(mine.encode(wave), codes)
    assert not torch.equal(mine.decode(codes), shipped.decode(codes))
    with pytest.raises(ConfigError, match="--init"):
        Run(replace(settings, init=None), recordings, tmp_path / "b")


def test_a_small_snac_learns_and_loads(
    recordings: list[train_codec.Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_parts, "SMALL_SNAC", TINY_SNAC)
    run = trained(replace(SETTINGS, kind="snac", steps=4), recordings, tmp_path / "a")
    codec = default_registry().build("codec", PartRef(name="snac", options={"model": str(run.weights)}))
    wave = train_codec.crops(run.recordings, SETTINGS, 0, 16_000, 4 * 1280)
    assert codec.decode(codec.encode(wave)).shape == wave.shape


def test_dead_codes_are_put_where_latents_are() -> None:
    net = codec_parts.TrainableSpectral(None)
    use = codec_parts.CodeUse(net.quantizer)
    _, codes, loss, given = codec_parts.quantise(net.quantizer, net.latents(torch.randn(2, 8 * 1280)))
    plain, plain_codes = net.quantizer(net.latents(torch.zeros(1, 1280)))
    again, again_codes, *_ = codec_parts.quantise(net.quantizer, net.latents(torch.zeros(1, 1280)))
    torch.testing.assert_close(again, plain)
    assert all(torch.equal(a, b) for a, b in zip(again_codes, plain_codes, strict=True))
    assert loss > 0
    for _ in range(400):
        use.note(codes)
    dead = int((use.use < 0.02).sum())
    assert dead > 1000
    assert use.restart(given, torch.Generator().manual_seed(0)) == dead
    book = net.quantizer.quantizers[0].codebook.weight
    distance = torch.cdist(book, given[0]).min(dim=1).values
    assert int((distance < 1e-5).sum()) >= book.shape[0] - len(given[0])
    assert use.restart(given, torch.Generator()) == 0


def test_bad_recordings_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a folder"):
        find_recordings(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds 0 recordings"):
        find_recordings(tmp_path)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"a\.wav' can't be read"):
        find_recordings(tmp_path)
