"""Training codecs: the loss falls, resuming is exact, a decoder alone leaves the codes, weights load in the plugin."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_snac import SMALL

from anytalk.errors import AnytalkError
from anytalk.plugins.testing.codec import check_codec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RATE = 8000


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def example() -> Namespace:
    """The script and its modules."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import codec.discriminator as discriminator
        import codec.listen as listen
        import codec.losses as losses
        import codec.nets as nets
        import codec.quantise as quantise
        import codec.sounds as sounds
        import codec.state as state
        import train_codec as script
    finally:
        sys.path.remove(str(EXAMPLES))
    return Namespace(
        script=script,
        nets=nets,
        quantise=quantise,
        sounds=sounds,
        state=state,
        listen=listen,
        losses=losses,
        discriminator=discriminator,
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tones of 0.6 s with overtones, and a manifest that names them."""
    folder = tmp_path_factory.mktemp("speech")
    seconds = np.arange(int(0.6 * RATE)) / RATE
    rows = []
    for number, pitch in enumerate((110, 150, 220, 330)):
        wave = sum(np.sin(2 * np.pi * pitch * k * seconds) / k for k in (1, 2, 3, 5)) * 0.2
        soundfile.write(folder / f"{number}.wav", wave * (1 + np.sin(2 * np.pi * 3 * seconds)) / 2, RATE)
        rows.append({"spoken": f"{number}.wav", "said": f"tone {number}"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words_for(speech: Path, out: Path, *more: str) -> list[str]:
    """A small training's command line."""
    sizes = out.parent / "sizes.json"
    sizes.write_text(json.dumps(SMALL))
    own = [] if "--init" in more else ["--config", str(sizes)]
    budget = [] if "--steps" in more or "--minutes" in more else ["--steps", "30"]
    fixed = ["--batch", "2", "--crop", "0.14", "--warmup-steps", "2", "--log-every", "5", "--learning-rate", "3e-3"]
    return [str(speech), "--out", str(out), *own, *budget, *fixed, *more]


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def state_of(example: Namespace, path: Path) -> dict[str, torch.Tensor]:
    return dict(example.nets.make_trainee(None, str(path), 0).module.state_dict())


def test_the_loss_falls_and_the_plugin_loads_the_weights(
    example: Namespace, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    example.script.main(words_for(speech, out, "--steps", "40"))
    log = log_of(out)
    assert [line["step"] for line in log] == list(range(5, 41, 5))
    assert log[-1]["mel"] < 0.9 * log[0]["mel"]
    # Without quantiser in the first 12 %: no such loss in the first line, codes in the last.
    assert "vq" not in log[0]
    assert log[1]["restarted"] > 0
    assert 1 <= log[-1]["perplexity.0"] <= SMALL["codebook_size"]
    assert 0 < log[-1]["used.6"] <= 1
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == sorted(["curve.png", "log.jsonl", "snac"])
    printed = capsys.readouterr().out
    assert f"codec: {{name: snac, options: {{model: {out / 'snac'}}}}}" in printed
    check_codec(example.nets.load_codec(str(out / "snac")))


def test_the_plugin_gives_the_codes_and_the_sound_of_what_was_trained(example: Namespace, tmp_path: Path) -> None:
    trainee = example.nets.make_trainee(SMALL | {"noise": False}, None, 0)
    written = trainee.write(tmp_path)
    codec = example.nets.load_codec(str(written))
    wave = torch.rand((2, 3 * trainee.samples_per_frame)) - 0.5
    with torch.no_grad():
        quantised = example.quantise.quantise(trainee.quantizer, trainee.latents(wave))
        sound = trainee.sound(quantised.latents)
        own_latents, own_codes = trainee.quantizer(trainee.latents(wave))
    assert torch.equal(quantised.latents, own_latents)
    assert all(torch.equal(a, b) for a, b in zip(quantised.codes, own_codes, strict=True))
    codes = codec.encode(wave)
    assert torch.equal(codes, example.nets.snac_order.flatten(quantised.codes, trainee.vq_strides))
    torch.testing.assert_close(codec.decode(codes), sound, rtol=0, atol=1e-5)


@pytest.mark.parametrize("more", [["--adversarial", "0.1"], []])
def test_an_interrupted_training_gives_the_same_weights(
    example: Namespace, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["--steps", "12", *more]
    example.script.main(words_for(speech, whole, *words))

    def stop(progress: Any, log_every: int) -> None:
        if progress.step == 7:  # in the middle of a line of the log
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(example.script, "tell", stop)
        with pytest.raises(SystemExit) as status:
            example.script.main(words_for(speech, cut, *words))
    assert status.value.code == 130
    assert (cut / "checkpoint").is_dir()
    assert not (cut / "snac").exists()
    with pytest.raises(SystemExit, match=r"made otherwise: seed was 0, is 1"):
        example.script.main(words_for(speech, cut, *words, "--seed", "1"))
    example.script.main(words_for(speech, cut, *words))
    assert not (cut / "checkpoint").exists()
    expected, found = (state_of(example, out / "snac") for out in (whole, cut))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    logs = [[{k: v for k, v in line.items() if k != "seconds"} for line in log_of(out)] for out in (whole, cut)]
    assert logs[0] == logs[1]


def test_a_decoder_alone_leaves_the_codes_as_they_are(example: Namespace, speech: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    example.script.main(words_for(speech, first, "--steps", "10"))
    init = first / "snac"
    # Beyond the interval of restarts, which must not touch the codebooks.
    more = ["--init", str(init), "--train", "decoder", "--steps", "22"]
    example.script.main(words_for(speech, second, *more))
    before, after = state_of(example, init), state_of(example, second / "snac")
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed
    assert all(name.startswith("decoder") for name in changed)
    codecs = [example.nets.load_codec(str(path)) for path in (init, second / "snac")]
    wave = torch.rand((1, 4000)) - 0.5
    assert torch.equal(codecs[0].encode(wave), codecs[1].encode(wave))
    log = log_of(second)
    assert "vq" not in log[-1]
    assert sum(line["restarted"] for line in log) == 0
    assert log[-1]["perplexity.0"] >= 1


def test_all_of_existing_weights_can_go_on(example: Namespace, speech: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    example.script.main(words_for(speech, first, "--steps", "10"))
    more = ["--init", str(first / "snac"), "--steps", "20"]
    example.script.main(words_for(speech, second, *more))
    assert "vq" in log_of(second)[0]  # the quantiser is on from the start
    assert log_of(second)[-1]["mel"] < log_of(first)[0]["mel"]


def test_a_budget_in_minutes_ends_and_quantises(example: Namespace, speech: Path, tmp_path: Path) -> None:
    example.script.main(words_for(speech, tmp_path / "out", "--minutes", "0.01"))
    log = log_of(tmp_path / "out")
    assert "vq" in log[-1]
    assert 0.6 <= log[-1]["seconds"] < 10


def test_dead_codes_are_restarted_and_used_ones_are_not(example: Namespace) -> None:
    quantise = example.quantise
    trainee = example.nets.make_trainee(SMALL, None, 0)
    latents = trainee.latents(torch.rand((2, 16 * trainee.samples_per_frame)) - 0.5).detach()
    books = [part.codebook.weight for part in trainee.quantizer.quantizers]
    before = [book.detach().clone() for book in books]
    use = [torch.ones(16) for _ in books]
    use[0][[3, 5]] = 0.0
    restarted = quantise.restart_dead(trainee.quantizer, latents, use, 0.02, np.random.default_rng(0))
    assert restarted == [2, 0, 0]
    changed = (books[0] != before[0]).any(-1).nonzero().flatten().tolist()
    assert changed == [3, 5]
    assert torch.equal(books[1], before[1])
    assert all(torch.equal(u, torch.ones(16)) for u in use)
    # A restarted code is an encoder output, so it is at once the nearest to something.
    codes = quantise.quantise(trainee.quantizer, latents).codes[0].flatten().tolist()
    assert {3, 5} <= set(codes)
    # More dead codes than outputs: so many as there are, none twice.
    use[0].zero_()
    few = quantise.restart_dead(trainee.quantizer, latents[:1, :, :8], use, 0.02, np.random.default_rng(0))
    assert few[0] == 2
    assert int((use[0] == 1).sum()) == 2


def test_running_use_and_perplexity_by_hand(example: Namespace) -> None:
    use = [torch.tensor([1.0, 0.0])]
    example.quantise.update_use(use, [torch.tensor([[1, 1, 1]])])
    assert use[0].tolist() == pytest.approx([0.9, 0.3])
    figures = example.quantise.stream_figures(torch.tensor([[5, 5, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]]))
    assert figures == {
        "used.0": 0.5, "perplexity.0": pytest.approx(2.0), "used.1": 0.25, "perplexity.1": pytest.approx(1.0),
    }  # fmt: skip


def test_mel_filters_are_triangles(example: Namespace) -> None:
    filters = example.losses.htk_mel_filters(16_000, 1280, 80)
    assert filters.shape == (641, 80)
    assert float(filters.max()) <= 1
    peaks_hz = filters.argmax(0) * 12.5
    # Centre k lies at 2595 * log10(1 + 8000 / 700) * (k + 1) / 81 mel: 23.1, ... 7687 Hz, to one bin of 12.5 Hz.
    assert float(peaks_hz[0]) == pytest.approx(22.1, abs=12.5)
    assert float(peaks_hz[40]) == pytest.approx(1811, abs=25)
    assert bool((peaks_hz.diff() >= 0).all())


def test_the_judge_tells_true_from_made(example: Namespace) -> None:
    d = example.discriminator
    judge, true, made = d.Discriminator(4), torch.sin(torch.arange(2048) * 0.3)[None], torch.rand((1, 2048)) - 0.5
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = d.judge_loss(judge(true), judge(made))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        alike, unlike = (float(d.codec_loss(judge(true), judge(other))) for other in (true, made))
    assert alike < unlike


def test_crops_are_a_function_of_seed_and_step(example: Namespace, speech: Path, tmp_path: Path) -> None:
    clips = example.sounds.find_clips(speech, "audio", "text")
    crops = [example.sounds.Crops(clips, RATE, 2048, 3, seed) for seed in (0, 0, 1)]
    assert crops[0].total_s == pytest.approx(2.4)
    assert np.array_equal(crops[0].at(7), crops[1].at(7))
    assert not np.array_equal(crops[0].at(7), crops[0].at(8))
    assert not np.array_equal(crops[0].at(7), crops[2].at(7))
    # Another rate is resampled: a tone of 1 kHz stays one. Short sound is padded with silence.
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4410) / 44100), 44100)
    (batch,) = example.sounds.Crops(example.sounds.find_clips(tmp_path, "", ""), RATE, 2048, 1, 0).at(0)
    assert batch.dtype == np.float32
    assert not batch[801:].any()
    assert np.abs(np.fft.rfft(batch[:800])).argmax() * RATE / 800 == pytest.approx(1000)


def test_held_out_sounds_have_texts_and_are_not_trained_on(example: Namespace, speech: Path) -> None:
    sounds = example.sounds
    clips = sounds.find_clips(speech / "rows.jsonl", "spoken", "said")
    assert [clip.text for clip in clips] == ["tone 0", "tone 1", "tone 2", "tone 3"]
    mute = [*clips[:3], sounds.Clip(clips[3].path, None, 4800, RATE)]
    train, held = sounds.hold_out(mute, 3, 0)
    assert (train, held) == ([mute[3]], mute[:3])
    with pytest.raises(AnytalkError, match="4 of 4 sounds held out leave none"):
        sounds.hold_out(clips, 4, 0)


class Deaf:
    """Hears the right words in loud sound and nothing in quiet sound."""

    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        return "tone one" if float(np.abs(wave).max()) > 0.05 else ""


class Critic:
    name = "critic"

    def score(self, wave: np.ndarray, sample_rate_hz: int) -> float:
        return 3.0


def test_listening_writes_figures_sounds_and_a_picture(example: Namespace, speech: Path, tmp_path: Path) -> None:
    class Quiet(torch.nn.Module):
        sample_rate_hz = RATE

        def encode(self, wave: torch.Tensor) -> torch.Tensor:
            return wave

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes * 0.01

    clips = example.sounds.find_clips(speech / "rows.jsonl", "spoken", "said")[1:2]
    report = example.listen.listen(Quiet(), clips, tmp_path, Deaf(), Critic(), lambda line: None)
    assert report == {
        "clips": 1, "words": 2, "wer_original": 0.0, "wer_round_trip": 1.0,
        "mos": "critic", "mos_original": 3.0, "mos_round_trip": 3.0,
    }  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert json.loads((tmp_path / "heard.jsonl").read_text())["heard_original"] == "tone one"
    assert soundfile.info(tmp_path / "round_trip.wav").frames == 4800
    assert (tmp_path / "spectrogram.png").stat().st_size > 10_000


def test_evaluating_without_texts_says_so(
    example: Namespace, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    example.script.main(words_for(speech, out, "--steps", "3", "--evaluate", "--held-out", "1"))
    assert "no word errors (--text-field NAME)" in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text()) == {"clips": 1}
    with pytest.raises(SystemExit, match="is a finished codec"):
        example.script.main(words_for(speech, out))


BAD: list[tuple[list[str], str]] = [
    (["{empty}", "--steps", "2"], "names no sound"),
    (["{missing}", "--steps", "2"], "doesn't exist"),
    (["{speech}/rows.jsonl", "--steps", "2"], "which field holds the paths of sounds"),
    (["{speech}/rows.jsonl", "--field", "said", "--steps", "2"], "tone 0' doesn't exist"),
    (["{text}", "--steps", "2"], "is no JSON object"),
    (["{noise}", "--steps", "2"], "not a sound file"),
    (["{speech}"], "no budget is given"),
    (["{speech}", "--steps", "2", "--minutes", "1"], "not both"),
    (["{speech}", "--steps", "0"], "budget above 0"),
    (["{speech}", "--steps", "2", "--train", "decoder"], "needs an encoder and codebooks"),
    (["{speech}", "--steps", "2", "--train", "ears"], "expected all or decoder"),
    (["{speech}", "--steps", "2", "--crop", "0.01"], "too short"),
    (["{speech}", "--steps", "2", "--held-out", "4"], "leave none to train on"),
    (["{speech}", "--steps", "2", "--evaluate"], "none held out"),
    (["{speech}", "--steps", "2", "--batch", "0"], "--batch is 0"),
    (["{speech}", "--steps", "2", "--init", "./no.safetensors"], "'./no.safetensors' doesn't exist"),
    (["{speech}", "--steps", "2", "--config", "{text}"], "can't be read as sizes"),
    (["{speech}", "--steps", "2", "--config", "{wide}"], "has no breadth"),
    (["{speech}", "--steps", "2", "--config", "{attention}"], "local attention"),
    (["{speech}", "--steps", "2", "--config", "{uneven}"], "don't undo each other"),
    (["{speech}", "--steps", "2", "--config", "{strides}"], "multiple of the next"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_input_is_a_sentence(
    example: Namespace, speech: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    places = {"speech": speech, "missing": tmp_path / "missing"}
    for name in ("empty", "noise"):
        places[name] = tmp_path / name
        places[name].mkdir()
    (places["noise"] / "a.wav").write_bytes(b"no wav at all")
    contents: dict[str, Any] = {
        "text": "[1",
        "wide": '{"breadth": 3}',
        "attention": '{"attn_window_size": 32, "encoder_dim": 8, "decoder_dim": 64}',
        "uneven": '{"encoder_rates": [2, 4], "encoder_dim": 4, "decoder_dim": 16}',
        "strides": '{"vq_strides": [4, 3, 1], "encoder_dim": 4, "decoder_dim": 64}',
    }
    for name, content in contents.items():
        places[name] = tmp_path / f"{name}.json"
        places[name].write_text(content)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as status:
        example.script.main([*(word.format(**places) for word in words), "--out", str(tmp_path / "out")])
    assert str(status.value.code).startswith("Error: ")
    assert sentence in str(status.value.code)
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_a_sentence(example: Namespace, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "checkpoint").mkdir(parents=True)
    (out / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(SystemExit, match=r"is damaged"):
        example.script.main(words_for(speech, out))


def test_a_step_that_is_no_number_stops(example: Namespace, speech: Path, tmp_path: Path) -> None:
    words = words_for(speech, tmp_path / "out", "--learning-rate", "1e30", "--steps", "10")
    with pytest.raises(SystemExit, match=r"loss of step \d+ is (nan|inf)"):
        example.script.main(words)
