"""Name everything that is measured, as in ``report.json`` and ``--fail-if``. Doesn't import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Describes one figure."""

    # `"share"` (0 to 1, printed in percent), `"rate"` (the same, but may exceed 1), `"s"`, `"nats"`, `"yes"` (1 or 0),
    # or any word, which is printed after the number.
    unit: str
    summary: str  # what it is, in one line
    asked: str = ""  # how questions must be asked for it: `"text"`, `"speech"` or `""` (either)
    needs: str = ""  # name of the option that it depends on


_SEGMENTS = {
    "encode": "speech encoder and input adapter, after the end of the user's sound",
    "prefill": "prompt through the backbone, for the first column",
    "delay": "columns until a whole codec frame is there",
    "codec": "first piece of sound out of the codec",
    "first_sound": "all four: from the end of the user's sound to the first PCM",
}

METRICS: dict[str, dict[str, Metric]] = {
    "asr": {
        "wer": Metric("rate", "word errors per reference word"),
        "substitutions": Metric("words", "words written as others"),
        "insertions": Metric("words", "words written that were not said"),
        "deletions": Metric("words", "words not written"),
        "transcriber_wer": Metric("rate", "the suite's transcriber on the same rows", needs="with_transcriber"),
    },
    "spoken_answers": {
        "wer": Metric("rate", "what the transcriber hears against the answer's own text"),
        "wer_asked_by_text": Metric("rate", "the same, typed questions only", asked="text"),
        "wer_asked_by_speech": Metric("rate", "the same, spoken questions only", asked="speech"),
        "mos": Metric("of 5", "predicted mean opinion score of the sound", needs="mos"),
        "silent": Metric("share", "answers without sound (peak below -80 dBFS)"),
        "clipped": Metric("share", "answers with samples at full scale"),
        "truncated": Metric("share", "answers that were cut off by max_columns"),
        "words_per_minute": Metric("words/min", "words of the text per minute of sound"),
    },
    "reading": {
        "wer": Metric("rate", "what the transcriber hears against the text that was read"),
        "mos": Metric("of 5", "predicted mean opinion score of the sound", needs="mos"),
        "silent": Metric("share", "readings without sound (peak below -80 dBFS)"),
        "clipped": Metric("share", "readings with samples at full scale"),
        "truncated": Metric("share", "readings that were cut off by max_columns"),
        "words_per_minute": Metric("words/min", "words of the text per minute of sound"),
    },
    "spoken_qa": {
        "accuracy": Metric("share", "expected answer found (by `match`), spoken questions if any, else typed ones"),
        "text_exact": Metric("share", "typed question: text answer equals an expected one", asked="text"),
        "text_contains": Metric("share", "typed question: text answer contains an expected one", asked="text"),
        "text_heard": Metric("share", "typed question: found in what is heard", asked="text", needs="hear"),
        "speech_exact": Metric("share", "spoken question: text answer equals an expected one", asked="speech"),
        "speech_contains": Metric("share", "spoken question: text answer contains an expected one", asked="speech"),
        "speech_heard": Metric("share", "spoken question: found in what is heard", asked="speech", needs="hear"),
    },
    "text_retention": {
        "greedy_agreement": Metric("share", "tokens of the parent's greedy answer up to the first difference"),
        "identical_answers": Metric("share", "greedy answers equal token for token"),
        "bit_identical": Metric("yes", "all logits on all texts and prompts are equal bit for bit"),
        "kl": Metric("nats", "KL(parent, talker) per token, along the parent's answers"),
        "perplexity_parent": Metric("per token", "perplexity of the parent on the texts", needs="texts"),
        "perplexity_talker": Metric("per token", "perplexity of the talker on the texts", needs="texts"),
    },
    "modality_gap": {
        "answer_agreement": Metric("share", "text answers with the same words, asked by text and by speech"),
        "cascade_agreement": Metric(
            "share", "the same, with what the measure's transcriber heard typed in", needs="transcriber"
        ),
        "agreement_lead": Metric("share", "the first minus the second", needs="transcriber"),
        "answer_wer": Metric("rate", "words of the answer asked by speech against the one asked by text"),
        "kl": Metric("nats", "KL(asked by text, asked by speech) per token, along the answer asked by text"),
        "accuracy_text": Metric("share", "expected answer contained, asked by text", needs="expected"),
        "accuracy_speech": Metric("share", "expected answer contained, asked by speech", needs="expected"),
        "accuracy_gap": Metric("share", "the first minus the second", needs="expected"),
        "expected_kept": Metric(
            "share", "of the questions answered as expected by text: also by speech", needs="expected"
        ),
    },
    "latency": {
        **{
            f"{segment}_p{percent}_s": Metric("s", f"{what} (p{percent})")
            for segment, what in _SEGMENTS.items()
            for percent in (50, 90)
        },
        "real_time_factor": Metric("x", "seconds of work per second of speech, all answers together"),
        "underruns": Metric("share", "answers that stall when played from the first piece on at real time"),
        "needed_buffer_p90_s": Metric("s", "how long to wait after the first piece so that nothing stalls (p90)"),
    },
    "cascade": {
        f"{who}_{name}": Metric(metric.unit, f"{who}: {metric.summary}", metric.asked, metric.needs)
        for who in ("talker", "cascade")
        for name, metric in {
            "accuracy": Metric("share", "expected answer contained in the text answer", needs="expected"),
            "heard": Metric("share", "expected answer contained in what is heard", needs="expected"),
            "wer": Metric("rate", "what is heard against the answer's own text"),
            "mos": Metric("of 5", "predicted mean opinion score of the sound", needs="mos"),
            "first_sound_p50_s": Metric("s", "end of the user's sound to the first PCM (p50)"),
            "first_sound_p90_s": Metric("s", "end of the user's sound to the first PCM (p90)"),
            "total_p50_s": Metric("s", "end of the user's sound to the last PCM (p50)"),
            "real_time_factor": Metric("x", "seconds of work per second of speech"),
        }.items()
    },
    "loss": {
        "text": Metric("nats", "cross-entropy of a text token", needs="writes"),
        "audio": Metric("nats", "cross-entropy of a token of the audio streams, all alike", needs="speaks"),
        "audio_per_frame": Metric("nats", "cross-entropy of all codes of a codec frame together", needs="speaks"),
    },
    "pooled": {"wer": Metric("rate", "word errors per reference word, over all examples of the measures pooled")},
}
"""Maps each measure to its metrics, in the order of the report."""

HEADLINES = {
    "asr": "wer",
    "spoken_answers": "wer",
    "reading": "wer",
    "spoken_qa": "accuracy",
    "text_retention": "greedy_agreement",
    "modality_gap": "answer_agreement",
    "latency": "first_sound_p50_s",
    "cascade": "talker_first_sound_p50_s",
    "loss": "audio",
    "pooled": "wer",
}
"""Maps each measure to its main metric, which a bare measure name means in ``--fail-if``."""


def format_value(value: float, unit: str) -> str:
    """Format a number as a report prints it: ``0.125, "share"`` -> ``"12.5 %"``."""
    if unit in ("share", "rate"):
        return f"{100 * value:.1f} %"
    if unit == "yes":
        return "yes" if value == 1 else "no"
    if unit == "s":
        return f"{value:.3f} s"
    if unit == "nats":
        return f"{value:.4g} nats"
    if unit == "words":
        return f"{value:.0f}"
    return f"{value:.2f} {unit}"


def format_interval(low: float | None, high: float | None, unit: str) -> str:
    """Format an interval: ``0.1, 0.2, "share"`` -> ``"10.0 to 20.0 %"``; ``""`` if there is none."""
    if low is None or high is None:
        return ""
    return f"{format_value(low, unit).partition(' ')[0]} to {format_value(high, unit)}"
