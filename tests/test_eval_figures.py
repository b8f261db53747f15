"""Figures of an evaluation against tables typed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from anytalk.errors import ConfigError, UnknownNameError
from anytalk.evaluate.bounds import parse_bounds
from anytalk.evaluate.config import MEASURES, Suite
from anytalk.evaluate.grids import kl_per_token, negative_log_likelihood
from anytalk.evaluate.matching import expected_answers, is_contained, is_exact
from anytalk.evaluate.metrics import HEADLINES, METRICS, format_interval, format_value
from anytalk.evaluate.stats import Bootstrap, Figure
from anytalk.evaluate.text_measures import common_prefix
from anytalk.evaluate.time_measures import playback, segments, sentences

SOURCE = {"kind": "jsonl", "path": "rows.jsonl"}


def suite(*measures: str, **more: object) -> Suite:
    needs = {"pooled": {"of": ["asr"]}, "loss": {"task": "T1A1", "data": "rows.jsonl"}}
    rows = [{"kind": kind, **needs.get(kind, {})} for kind in measures]
    return Suite.model_validate({"source": SOURCE, "measures": rows, **more})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("Rome", ["Rome"]), ("seven | 7", ["seven", "7"]), (" a |b|| ", ["b"]), ("", []), (None, []), ("...", [])],
)
def test_expected_answers_are_split(text: str | None, wanted: list[str]) -> None:
    assert expected_answers(text) == wanted


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "contains"),
    [
        ("Rome", ["Rome"], True, True),
        ("rome.", ["Rome"], True, True),
        ("The capital of Italy is Rome.", ["Rome"], False, True),
        ("A cat", ["the cat"], True, True),
        ("Seven days", ["7"], False, True),
        ("It is smart.", ["art"], False, False),
        ("New old York", ["New York"], False, False),
        ("In New York, I think", ["Boston", "new york"], False, True),
        ("", ["Rome"], False, False),
        ("my favourite colour", ["favorite color"], False, True),
    ],
)
def test_answers_are_matched_by_words(answer: str, expected: list[str], exact: bool, contains: bool) -> None:
    assert (is_exact(answer, expected), is_contained(answer, expected)) == (exact, contains)


def test_ratio_and_mean_by_hand() -> None:
    plain = Bootstrap(samples=0)
    assert plain.ratio([1, 0, 3], [4, 4, 8]) == Figure(4 / 16, 3)
    assert plain.ratio([2, 1], [0, 0]) == Figure(3.0, 2)  # as a WER without any reference word
    assert plain.mean([1, 0, 0, 1]) == Figure(0.5, 4)
    assert plain.total([1, 2]) == Figure(3.0, 2)
    assert plain.percentile([4, 1, 2, 3], 50) == Figure(2.5, 4)
    assert plain.percentile([10, 20], 90) == Figure(19.0, 2)
    assert math.isnan(plain.mean([]).value)
    assert math.isnan(plain.percentile([], 50).value)


def test_intervals_cover_and_repeat() -> None:
    values = [0.0] * 50 + [1.0] * 50
    first, again = Bootstrap(1000, 3).mean(values), Bootstrap(1000, 3).mean(values)
    assert first == again
    # The normal approximation says 0.5 +- 1.96 * 0.05.
    assert first.low == pytest.approx(0.402, abs=0.02)
    assert first.high == pytest.approx(0.598, abs=0.02)
    assert Bootstrap(1000, 4).mean(values) != first
    assert Bootstrap(100, 0).mean([1.0]) == Figure(1.0, 1)


def test_intervals_draw_whole_examples() -> None:
    # Every example has the same ratio, so has every drawing: drawing tops and bottoms apart would not.
    figure = Bootstrap(200, 0).ratio([1, 5, 9], [2, 10, 18])
    assert (figure.low, figure.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arrivals", "stalled", "needed"),
    [
        ([], 0.0, 0.0),
        ([(1.0, 0.5)], 0.0, 0.0),
        ([(1.0, 0.5), (1.4, 0.5)], 0.0, 0.0),
        # Heard until 1.5, the next is there at 1.75; then heard until 2.25, the next at 2.5.
        ([(1.0, 0.5), (1.75, 0.5), (2.5, 0.5)], 0.5, 0.5),
        # One late piece, then two in time: waiting 0.5 s at first would have been enough.
        ([(0.0, 1.0), (1.5, 1.0), (2.0, 1.0), (3.25, 1.0)], 0.5, 0.5),
    ],
)
def test_playback_by_hand(arrivals: list[tuple[float, float]], stalled: float, needed: float) -> None:
    assert playback(arrivals) == (pytest.approx(stalled), pytest.approx(needed))


def test_segments_are_the_times_between_marks() -> None:
    marks = {"encoded": 0.25, "prefilled": 0.375, "first_frame": 0.875, "first_sound": 1.0}
    assert segments(marks) == {"encode": 0.25, "prefill": 0.125, "delay": 0.5, "codec": 0.125, "first_sound": 1.0}


@pytest.mark.parametrize(
    ("grown", "wanted"),
    [
        (["Yes", "Yes.", "Yes. It", "Yes. It is."], ["Yes.", "It is."]),
        (["One. Two! Three? Four"], ["One.", "Two!", "Three?", "Four"]),
        (["It costs 3.50 now."], ["It costs 3.50 now."]),
        (['He said "no." Then he left.'], ['He said "no."', "Then he left."]),
        (["... ", "... well"], ["well"]),
        ([], []),
        (["?"], []),
    ],
)
def test_sentences_come_when_they_are_whole(grown: list[str], wanted: list[str]) -> None:
    assert list(sentences(grown)) == wanted


def test_the_first_sentence_does_not_wait_for_the_second() -> None:
    taken: list[str] = []

    def growing() -> object:
        for text in ("Yes", "Yes. I", "Yes. I do."):
            taken.append(text)
            yield text

    assert next(sentences(growing())) == "Yes."  # type: ignore[arg-type]
    assert taken == ["Yes", "Yes. I"]


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [([1, 2, 3], [1, 2, 3], 3), ([1, 2], [1, 2, 3], 2), ([1, 9, 3], [1, 2, 3], 1), ([], [1], 0), ([5], [6], 0)],
)
def test_common_prefix(first: list[int], second: list[int], wanted: int) -> None:
    assert common_prefix(first, second) == wanted


def test_kl_by_hand() -> None:
    first = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log()
    second = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.9, 0.1]]).log() + 3.0  # a shift changes no distribution
    # 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75)
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_per_token(first, second).tolist() == pytest.approx([wanted, 0.0, 0.0], abs=1e-6)
    assert kl_per_token(first, first.clone()).tolist() == [0.0, 0.0, 0.0]


def test_likelihood_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]).log()
    # The first id is given; id 1 follows with 0.25, id 1 with 0.8.
    assert negative_log_likelihood(logits, [0, 1, 1]) == pytest.approx(-math.log(0.25) - math.log(0.8))


@pytest.mark.parametrize(
    ("text", "metric", "broken"),
    [
        ("text_retention<0.99", "text_retention.greedy_agreement", True),
        ("text_retention < 98%", "text_retention.greedy_agreement", False),
        ("text_retention<=98.0 %", "text_retention.greedy_agreement", True),
        ("latency.first_sound_p90_s>1.5", "latency.first_sound_p90_s", False),
        ("latency.first_sound_p90_s>=1.5", "latency.first_sound_p90_s", True),
        ("latency>1e-3", "latency.first_sound_p50_s", True),
    ],
)
def test_bounds(text: str, metric: str, broken: bool) -> None:
    metrics = {
        "text_retention.greedy_agreement": 0.98,
        "latency.first_sound_p90_s": 1.5,
        "latency.first_sound_p50_s": 0.7,
    }
    bound = parse_bounds([text], suite("text_retention", "latency"))[0]
    assert bound.metric == metric
    sentence = bound.broken_by(metrics)
    assert (sentence is not None) == broken
    assert sentence is None or (text.strip() in sentence and metric in sentence)
    assert "was not measured" in str(bound.broken_by({}))


@pytest.mark.parametrize("text", ["text_retention", "<1", "text_retention=1", "text_retention<one", "latency>1.2.3"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a bound"):
        parse_bounds([text], suite("text_retention", "latency"))


def test_bounds_on_what_is_not_measured_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'text_retention'") as caught:
        parse_bounds(["text_retetion<1"], suite("text_retention"))
    assert "text_retention.kl" in caught.value.hint
    with pytest.raises(UnknownNameError, match=r"measures no 'asr.wer'"):
        parse_bounds(["asr.wer>0.1"], suite("text_retention"))
    with pytest.raises(UnknownNameError, match="perplexity_talker"):  # this suite gives no texts
        parse_bounds(["text_retention.perplexity_talker>9"], suite("text_retention"))
    with pytest.raises(UnknownNameError, match="mos"):
        parse_bounds(["spoken_answers.mos<3"], suite("spoken_answers"))
    assert parse_bounds(["spoken_answers.mos<3"], suite("spoken_answers", mos="dnsmos"))


def test_every_measure_has_metrics_and_a_headline() -> None:
    assert set(METRICS) == set(HEADLINES) == set(MEASURES)
    assert all(HEADLINES[kind] in METRICS[kind] for kind in METRICS)
    everything = suite(*MEASURES, mos="dnsmos")
    assert len(everything.metric_names()) == len(set(everything.metric_names()))
    for measure in everything.measures:
        assert measure.headline in measure.metrics(everything)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "share", "12.3 %"),
        (1.5, "rate", "150.0 %"),
        (1.0, "yes", "yes"),
        (0.0, "yes", "no"),
        (0.25, "s", "0.250 s"),
        (3.0, "words", "3"),
        (2.345, "of 5", "2.35 of 5"),
        (0.0, "nats", "0 nats"),
    ],
)
def test_values_as_they_are_printed(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_intervals_as_they_are_printed() -> None:
    assert format_interval(0.1, 0.2, "share") == "10.0 to 20.0 %"
    assert format_interval(None, None, "share") == ""


def test_no_reference_words_at_all_give_no_division() -> None:
    assert Bootstrap(50, 0).ratio([0, 0], [0, 0]) == Figure(0.0, 2, 0.0, 0.0)
