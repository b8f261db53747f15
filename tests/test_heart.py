"""The codec `heart` of the package beside anytalk: the contract, exact streams, look-ahead, training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from importable import importable

from anytalk.errors import WeightsError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.testing import check_codec

with importable("anytalk-heart", "heart"):
    import train_ear
    import train_quantiser
    from anytalk_heart import latents as lat
    from anytalk_heart.codec import HeartCodec
    from anytalk_heart.net import HeartNet, HeartSizes, VoiceDecoder, load, save
    from crops import Crops
    from cut import cut_by_least_squares
    from loop import Stage
    from sentences import sentences
    from speech import read, write_shard
    from train_ear import EarTraining
    from train_quantiser import CodeTraining, parts_of

SMALL = HeartSizes(
    width=16,
    hidden=32,
    code_blocks=1,
    voice_blocks=4,
    voice_future=6,
    ear_blocks=1,
    num_mels=16,
    low_bins=8,
    codebook_size=32,
    codebook_dim=4,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def small_net(**sizes: Any) -> HeartNet:
    """Random weights that speak now and then, in the middle of a voice's range."""
    torch.manual_seed(0)
    net = HeartNet(replace(SMALL, **sizes))
    net.mean[lat.VOICED], net.mean[lat.PITCH], net.std[lat.PITCH] = 0.6, 1.05, 0.03
    with torch.no_grad():
        for weight in net.voice.head.parameters():
            weight.mul_(0.3)
    return net


@pytest.mark.parametrize(("latent_future", "voice_future"), [(0, 6), (1, 0), (2, 10)])
def test_heart_keeps_the_contract(latent_future: int, voice_future: int) -> None:
    check_codec(HeartCodec(small_net(latent_future=latent_future, voice_future=voice_future)))


def test_stream_equals_offline_to_the_last_bit() -> None:
    codec = HeartCodec(small_net())
    codes = torch.randint(32, (1, 7, 30), generator=torch.Generator().manual_seed(1))
    stream = codec.new_stream()
    pieces = [stream.push(piece) for piece in codes.split([1, 4, 0, 2, 23], -1)]
    assert torch.equal(torch.cat([*pieces, stream.flush()], -1), codec.decode(codes))


@pytest.mark.parametrize(("latent_future", "voice_future"), [(0, 6), (0, 0), (2, 10)])
def test_nothing_later_than_the_look_ahead_is_heard(latent_future: int, voice_future: int) -> None:
    codec = HeartCodec(small_net(latent_future=latent_future, voice_future=voice_future))
    codes = torch.randint(32, (1, 7, 20), generator=torch.Generator().manual_seed(1))
    codes = codes.repeat(8, 1, 1)  # not every other code is heard from its first sample on
    changed = codes.clone()
    changed[..., 10:] = (changed[..., 10:] + torch.arange(1, 9)[:, None, None]) % 32
    differs = int((codec.decode(codes) != codec.decode(changed)).any(0).nonzero()[0])
    ahead_s = 10 * 0.1 - differs / 24_000
    # What the farthest latent (25 ms) changes may be lost in rounding, on some processors.
    assert ahead_s <= codec.net.sizes.look_ahead_s <= ahead_s + 0.03
    assert codec.net.sizes.future_frames == codec.context_frames[1] <= 2


def test_the_sound_of_latents_is_what_codes_of_them_say(tmp_path: Path) -> None:
    net = small_net()
    codec = HeartCodec(net)
    latents = net.natural(torch.randn((1, lat.NUM_LATENTS, 24), generator=torch.Generator().manual_seed(2)))
    codes = codec.encode_latents(latents)
    assert codes.shape == (1, 7, 6)
    with torch.no_grad():
        coded = net.read(net.quantiser.decode(net.codes(latents)), {}, True)
        whole = net.said(lat.columns(net.natural(coded)))
    assert (codec.decode(codes) - whole).abs().max() < 1e-2  # the pitch of other roundings drifts by this much
    save(net, tmp_path / "heart.safetensors")
    again = HeartCodec(load(tmp_path / "heart.safetensors"))
    assert (again.encode_latents(latents) == codes).float().mean() > 0.9  # half precision


def test_pitch_is_drawn_through_what_is_unvoiced() -> None:
    halves = torch.zeros((4, 132))
    halves[1, 128], halves[3, 130] = 1.0, 1.2
    found = lat.from_hibari(halves)
    assert found[:, lat.VOICED].flatten().tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert found[:, lat.PITCH].flatten().tolist() == pytest.approx([1, 1, 1, 1.04, 1.08, 1.12, 1.16, 1.2])
    columns = lat.columns(found.T[None])
    assert lat.pitch_hz(columns)[0].round().tolist() == [0, 0, 147, 0, 0, 0, 0, 402]
    assert lat.from_hibari(torch.zeros((3, 132)))[:, lat.VOICED].sum() == 0


def test_missing_and_damaged_weights_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="can't be read as weights of `heart`"):
        HeartCodec.build(HeartCodec.Options(model="bad.safetensors"), BuildContext(folder=tmp_path))


def test_absent_weights_say_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("anytalk_heart.codec.SHIPPED", tmp_path / "heart.safetensors")
    with pytest.raises(WeightsError, match="missing") as caught:
        HeartCodec.build(HeartCodec.Options(), BuildContext())
    assert "train.sh" in str(caught.value)


def test_least_squares_keep_more_than_dropped_taps() -> None:
    torch.manual_seed(0)
    whole = VoiceDecoder(replace(SMALL, voice_future=15))
    smooth = torch.nn.functional.avg_pool1d(torch.randn((4, lat.NUM_COLUMN, 1500)), 9, 1)
    cut = VoiceDecoder(replace(SMALL, voice_future=5))
    dropped = VoiceDecoder(replace(SMALL, voice_future=5))
    dropped.load_state_dict(whole.state_dict())
    cut_by_least_squares(whole, cut, list(smooth[:3].split(1)))
    with torch.no_grad():
        wanted = whole(smooth[3:], {}, True)
        error, worse = (float((one(smooth[3:], {}, True) - wanted).square().mean()) for one in (cut, dropped))
    assert error < 0.5 * worse


def test_sentences_are_always_the_same_and_some_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "cookies").write_text(
        "Ordinary English is here.\n%\nno sentence\n%\nIs this one? It is.\n", encoding="utf-8"
    )
    found = sentences(tmp_path)
    assert found == sentences(tmp_path)
    assert {"ordinary", "number", "date", "long", "question"} <= {one.kind for one in found}
    assert {one.text for one in found if one.kind == "ordinary"} == {"Ordinary English is here.", "Is this one?"}
    assert 0.01 < sum(one.held_out for one in found) / len(found) < 0.03


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two texts of 3 s: noise where speech would be."""
    dice = np.random.default_rng(0)
    rows = [{"text": "x", "kind": "x", "held_out": False, "durations": [100, 20]}] * 2
    waves = [dice.uniform(-0.1, 0.1, 72_000).astype(np.float32) for _ in rows]
    latents = [dice.normal(0.5, 0.5, (120, 132)) for _ in rows]
    write_shard(tmp_path / "0000", rows, waves, latents)
    return tmp_path


def trained_codes(speech: Path, out: Path, stops: list[int]) -> HeartNet:
    """A quantiser after 6 steps, stopped and resumed at `stops`."""
    net = small_net()
    for steps in [*stops, 6]:
        net = small_net()
        training = CodeTraining(net, Crops(read(speech, False), 40, 2), 6, 0.3)
        stage = Stage(out, "quantiser", parts_of(net), 6, 1e-3, training.extra, warmup_steps=2)

        def step_of(step: int, last: int = steps, one: CodeTraining = training) -> Any:
            if step == last:
                raise KeyboardInterrupt
            return one(step)

        stage.every_s = 0.0
        try:
            assert stage.run(step_of)
        except KeyboardInterrupt:
            assert steps < 6
    return net


def test_resumed_training_gives_the_same_codes(speech: Path, tmp_path: Path) -> None:
    straight = trained_codes(speech, tmp_path / "a", [])
    resumed = trained_codes(speech, tmp_path / "b", [2, 5])
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert not torch.equal(straight.quantiser.books[0].codes, small_net().quantiser.books[0].codes)


@pytest.mark.parametrize("stage", ["quantiser", "ear"])
def test_a_stage_begins_with_the_same_weights(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    begun = {"quantiser": train_quantiser, "ear": train_ear}[stage]
    monkeypatch.setattr(begun, "HeartNet", lambda _: HeartNet(SMALL))
    out = tmp_path / "out"
    Stage(out, "decoder-14", {"voice": small_net().voice}, 0, 0.0).run(lambda _: pytest.fail("no step"))
    Stage(out, "quantiser", parts_of(small_net()), 0, 0.0).run(lambda _: pytest.fail("no step"))
    found = []
    for seed in range(2):
        (out / f"{stage}.pt").unlink(missing_ok=True)
        torch.manual_seed(seed)
        monkeypatch.setattr("sys.argv", [stage, str(speech), str(out), "--steps", "0"])
        begun.main()
        state = torch.load(out / f"{stage}.pt", weights_only=True)
        found.append(state["coder" if stage == "quantiser" else "ear"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_log_tells_held_out_texts_as_they_are(tmp_path: Path) -> None:
    layer = torch.nn.Linear(1, 1)

    def step_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return layer(torch.ones(1)).sum(), {"told": float(step), **({"held_out_told": float(step)} if step % 2 else {})}

    assert Stage(tmp_path, "a", {"layer": layer}, 3, 1e-3, tell_every=1).run(step_of)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line.get("held_out_told") for line in lines] == [None, 1.0, 1.0]
    assert [line["told"] for line in lines] == pytest.approx([0.0, 0.05, 0.1475])


def test_the_ear_learns_what_it_is_played(speech: Path, tmp_path: Path) -> None:
    net = small_net()
    training = EarTraining(net, Crops(read(speech, False), 40, 2))
    first = training(0)[0].item()
    assert Stage(tmp_path / "run", "ear", {"ear": net.ear}, 30, 3e-3, warmup_steps=2).run(training)
    assert training(0)[0].item() < 0.8 * first
