"""Whole suites on tiny talkers, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from eval_parts import questions, registry, saved_talker, suite_of, write
from typer.testing import CliRunner

from anytalk.cli import eval as eval_module
from anytalk.cli.app import build_app
from anytalk.errors import ConfigError
from anytalk.evaluate import run as run_module
from anytalk.evaluate.config import MEASURES, Suite, read_suite
from anytalk.evaluate.lab import Lab
from anytalk.evaluate.report import markdown, read_partial
from anytalk.evaluate.run import run_suite
from anytalk.grid.audio import write_wave
from anytalk.model.talker import Talker

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return saved_talker(tmp_path_factory.mktemp("eval") / "tiny")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rows = []
    for i, (question, answer) in enumerate([("Where is Rome?", "Italy | in Italy"), ("Who? <b>", "me")]):
        write_wave(folder / f"{i}.wav", (0.3 * np.sin(np.arange(4_000) / (5 + i))).astype(np.float32), 16_000)
        rows.append({"question_text": question, "question_audio": f"{i}.wav", "answer_text": answer})
    return questions(folder, rows)


def everything(manifest: Path, **more: Any) -> Suite:
    changes = {"text_retention": {"texts": ["a text", "another"], "max_tokens": 5}, "latency": {"warmup": 1}}
    changes |= {"asr": {"with_transcriber": True}, "spoken_qa": {"hear": True, "ask": ["speech", "text"]}}
    changes |= {"pooled": {"of": ["asr", "reading"]}, "loss": {"task": "A1T1", "data": str(manifest)}}
    changes |= {"spoken_answers": {"ask": ["text", "speech"]}, "cascade": {"max_tokens": 6, "warmup": 0}}
    measures = [{"kind": kind, **changes.get(kind, {})} for kind in MEASURES]
    return suite_of(manifest, *measures, **more)


def test_a_whole_suite_gives_every_metric_it_promises(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    suite = everything(manifest)
    report = run_suite(talker, suite, tmp_path, command=["anytalk", "eval"])
    assert not report.failures()
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["complete"] is True
    # A tiny talker's typed answer holds nothing that was expected: there is nothing that a spoken one could keep.
    promised = [name for name in suite.metric_names() if name != "modality_gap.expected_kept"]
    assert list(data["metrics"]) == promised
    assert data["metrics"]["text_retention.bit_identical"] == 1.0
    assert data["metrics"]["modality_gap.kl"] > 0
    assert data["seed"] == 0
    assert {"talker", "machine", "packages", "models", "command", "date"} <= set(data)
    parent = data["models"][0]
    assert parent["role"] == "parent"
    assert parent["digest"] == talker.config.base.fingerprint  # type: ignore[union-attr]
    page = (tmp_path / "report.md").read_text()
    for label in MEASURES:
        assert f"\n## {label}\n" in page
        assert len((tmp_path / f"{label}.jsonl").read_text().splitlines()) >= 2
    for picture in ("summary", "asr", "spoken_answers", "modality_gap", "latency", "cascade"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({picture}.png)" in page
    assert "<b>" not in page
    assert not list(tmp_path.glob(".*"))


def test_the_same_seed_gives_the_same_figures(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    suite = suite_of(manifest, {"kind": "spoken_answers", "ask": ["speech"]}, {"kind": "modality_gap"})
    run_suite(talker, suite, tmp_path / "a")
    run_suite(talker, suite, tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    assert first["metrics"] == second["metrics"]
    for label in first["measures"]:
        assert first["measures"][label]["figures"] == second["measures"][label]["figures"]
        assert (tmp_path / "a" / f"{label}.jsonl").read_bytes() == (tmp_path / "b" / f"{label}.jsonl").read_bytes()


def test_a_failing_measure_does_not_stop_the_others(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    suite = suite_of(
        manifest,
        {"kind": "spoken_answers"},
        {"kind": "text_retention", "max_tokens": 3},
        transcriber={"name": "broken"},
    )
    report = run_suite(talker, suite, tmp_path)
    assert report.failures() == ["measure 'spoken_answers' failed: the judge has no weights (fetch them)"]
    assert "text_retention.kl" in report.metrics()
    page = (tmp_path / "report.md").read_text()
    assert "Failed: the judge has no weights (fetch them)." in page
    assert "| spoken_answers | spoken_answers.wer | failed |" in page


def test_an_interrupted_report_goes_on(
    talker: Talker, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(manifest, {"kind": "modality_gap"}, {"kind": "text_retention", "max_tokens": 3})
    calls: list[str] = []
    runners = dict(run_module._RUNNERS)

    def count(kind: str, fails: bool) -> None:
        def runner(*args: Any) -> None:
            calls.append(kind)
            if fails:
                raise KeyboardInterrupt
            runners[kind](*args)

        monkeypatch.setitem(run_module._RUNNERS, kind, runner)

    count("modality_gap", fails=False)
    count("text_retention", fails=True)
    with pytest.raises(KeyboardInterrupt):
        run_suite(talker, suite, tmp_path)
    assert "Not complete" in (tmp_path / "report.md").read_text()
    assert list(read_partial(tmp_path)) == ["modality_gap"]
    count("text_retention", fails=False)
    report = run_suite(talker, suite, tmp_path)
    assert calls == ["modality_gap", "text_retention", "text_retention"]
    assert [result.label for result in report.results] == ["modality_gap", "text_retention"]
    assert len(report.results[0].items) == 2
    # Complete: the next run measures again. So it does with other options.
    run_suite(talker, suite, tmp_path)
    assert calls[3:] == ["modality_gap", "text_retention"]


def test_other_options_are_measured_again(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    run_suite(talker, suite_of(manifest, {"kind": "modality_gap"}), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    data["complete"] = False
    data["measures"]["modality_gap"]["figures"]["kl"]["value"] = 77.0
    (tmp_path / "report.json").write_text(json.dumps(data))
    same = run_suite(talker, suite_of(manifest, {"kind": "modality_gap"}), tmp_path)
    assert same.metrics()["modality_gap.kl"] == 77.0
    data["complete"] = False
    (tmp_path / "report.json").write_text(json.dumps(data))
    other = run_suite(talker, suite_of(manifest, {"kind": "modality_gap"}, max_columns=5), tmp_path)
    assert other.metrics()["modality_gap.kl"] != 77.0


def test_an_unreadable_report_is_measured_anew(tmp_path: Path) -> None:
    assert read_partial(tmp_path) == {}
    (tmp_path / "report.json").write_text('{"complete": false')
    assert read_partial(tmp_path) == {}


def test_tables_survive_odd_texts(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    report = run_suite(talker, suite_of(manifest, {"kind": "modality_gap"}), tmp_path)
    report.results[0].worst = [{"question": "a|b\nc", "asked_by_text": "<img>", "asked_by_speech": None, "errors": 1}]
    assert "| a\\|b c | &lt;img> | - | 1 |" in markdown(report, None)


def test_the_clock_follows_an_answer(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    lab = Lab(talker, suite_of(manifest, {"kind": "latency"}), tmp_path)
    reply = lab.ask("A1A2", wave=(0.3 * np.sin(np.arange(4_000) / 9)).astype(np.float32))
    assert list(reply.marks) == ["encoded", "prefilled", "first_frame", "first_sound"]
    times = [0.0, *reply.marks.values(), *(when for when, _ in reply.arrivals), reply.wall_s]
    assert times == sorted(times)
    assert sum(duration_s for _, duration_s in reply.arrivals) == pytest.approx(reply.audio_s)
    assert reply.truncated
    typed = lab.ask("T1T2", text="hello")
    assert list(typed.marks) == ["encoded", "prefilled"]
    assert len(typed.wave) == 0


def test_word_errors_are_pooled_over_all_examples(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    measures = [
        {"kind": "asr"},
        {"kind": "asr", "name": "again", "limit": 1},
        {"kind": "pooled", "of": ["asr", "again"]},
    ]
    report = run_suite(talker, suite_of(manifest, *measures), tmp_path)
    first, again, pooled = report.results
    assert [item["measure"] for item in pooled.items] == ["asr", "asr", "again"]
    errors, words = (sum(item[name] for item in first.items + again.items) for name in ("errors", "words"))
    assert pooled.figures["wer"].value == pytest.approx(errors / words)
    assert pooled.figures["wer"].n == 3


def test_what_pools_a_failed_measure_fails(talker: Talker, manifest: Path, tmp_path: Path) -> None:
    asr = {"kind": "asr", "with_transcriber": True}
    suite = suite_of(manifest, asr, {"kind": "pooled", "of": ["asr"]}, transcriber={"name": "broken"})
    report = run_suite(talker, suite, tmp_path)
    assert "measure 'asr' failed, so there is nothing to pool" in report.failures()[1]


def test_baselines(manifest: Path) -> None:
    suite = suite_of(manifest, {"kind": "asr"})
    assert [m.kind for m in suite.with_baseline("cascade").measures] == ["asr", "cascade"]
    assert suite.with_baseline("cascade").with_baseline("cascade") == suite.with_baseline("cascade")
    quick = read_suite(ROOT / "examples" / "suites" / "quick.yaml").with_baseline("cascade")
    assert quick.measures[-1].kind == "cascade"
    with pytest.raises(ConfigError, match="no questions to compare on"):
        read_suite(ROOT / "examples" / "suites" / "librispeech.yaml").with_baseline("cascade")
    with pytest.raises(ConfigError, match="unknown baseline 'casade'"):
        suite.with_baseline("casade")


# ---- the command


@pytest.fixture
def suite_file(manifest: Path, tmp_path: Path) -> Path:
    data = {
        "source": {"kind": "jsonl", "path": str(manifest)},
        "transcriber": {"name": "tape"},
        "synthesizer": {"name": "hum"},
        "max_columns": 6,
        "measures": [{"kind": "text_retention", "max_tokens": 3}],
    }
    return write(tmp_path / "suite.yaml", data)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0) -> Any:
    monkeypatch.setattr(eval_module, "default_registry", registry)
    result = CliRunner().invoke(build_app(only="eval"), ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_the_command_writes_a_report(
    talker: Talker, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bounds = ["--fail-if", "text_retention<0.99", "--fail-if", "text_retention.bit_identical<1"]
    result = command(
        monkeypatch, talker.folder, "--suite", suite_file, "-o", out, *bounds, "--seed", 5, "--baseline", "cascade"
    )
    assert "text_retention.greedy_agreement" in result.stdout
    assert str(out / "report.md") in result.stdout
    data = json.loads((out / "report.json").read_text())
    assert data["seed"] == 5
    assert "2 of 2 bounds kept." in (out / "report.md").read_text()
    assert data["metrics"]["cascade.cascade_first_sound_p50_s"] > 0


def test_a_table_beside_others_fits_80_columns(
    talker: Talker, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = {
        "source": {"kind": "jsonl", "path": str(manifest)},
        "transcriber": {"name": "tape"},
        "synthesizer": {"name": "hum"},
        "max_columns": 2,
        "published": [{"name": "a paper with a name of some length", "figures": {"one": 0.034, "two": 0.04}}],
        "measures": [{"kind": "asr", "name": name, "with_transcriber": True} for name in ("one", "two", "three")],
    }
    file = write(tmp_path / "suite.yaml", suite)
    result = command(monkeypatch, talker.folder, "--suite", file, "-o", tmp_path / "out")
    table = result.stdout[result.stdout.index("beside others") :]
    assert "a tape, measured here" in table
    intervals = re.findall(r"\([\d.]+ to [\d.]+\)", table)
    assert len(intervals) == 6, "an interval is broken"


def test_a_talker_is_measured_in_its_own_arithmetic(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept = saved_talker(tmp_path / "talker", "arithmetic=int8").folder, {}
    for said, arguments in (("int8", []), ("exact", ["--arithmetic", "exact"])):
        out = tmp_path / said
        command(monkeypatch, folder, "--suite", suite_file, "-o", out, *arguments)
        data = json.loads((out / "report.json").read_text())
        assert data["talker"]["arithmetic"] == said
        assert f"| arithmetic | {said} |" in (out / "report.md").read_text()
        kept[said] = data["metrics"]["text_retention.bit_identical"]
    assert kept == {"int8": 0.0, "exact": 1.0}


def test_a_broken_bound_fails_after_the_report(
    talker: Talker, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = command(
        monkeypatch, talker.folder, "--suite", suite_file, "-o", out, "--fail-if", "text_retention>99%", code=1
    )
    assert "'text_retention>99%': text_retention.greedy_agreement is 1 (100.0 %), which is > 0.99" in result.stderr
    assert json.loads((out / "report.json").read_text())["broken_bounds"]
    assert "**Bound broken:**" in (out / "report.md").read_text()


def test_an_unknown_metric_fails_before_the_run(
    talker: Talker, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = command(monkeypatch, talker.folder, "--suite", suite_file, "-o", out, "--fail-if", "latency<1", code=1)
    assert "this suite measures no 'latency'" in result.stderr
    assert not out.exists()


def test_a_failed_measure_fails_the_command(
    talker: Talker, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = yaml.safe_load(suite_file.read_text())
    data |= {"transcriber": {"name": "broken"}, "measures": [{"kind": "spoken_answers", "limit": 1}]}
    write(suite_file, data)
    out = tmp_path / "out"
    result = command(monkeypatch, talker.folder, "--suite", suite_file, "-o", out, code=1)
    assert "measure 'spoken_answers' failed: the judge has no weights" in result.stderr
    assert (out / "report.md").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transcriber": {"name": "tap"}}, "did you mean 'tape'"),
        ({"synthesizer": {"name": "humm"}}, "did you mean 'hum'"),
        ({"speaker": "anna"}, "no voice 'anna'"),
        ({"source": {"kind": "jsonll", "path": "x"}}, "did you mean 'jsonl'"),
    ],
)
def test_unknown_parts_are_named_before_the_run(
    talker: Talker, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    write(suite_file, {**yaml.safe_load(suite_file.read_text()), **change})
    result = command(monkeypatch, talker.folder, "--suite", suite_file, "-o", tmp_path / "out", code=1)
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
