"""Read ``suite.yaml``, which says what is measured, on which rows and with which judges."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from anytalk.data.config import SourceConfig
from anytalk.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from anytalk.evaluate.metrics import HEADLINES, METRICS
from anytalk.grid.tasks import find_task
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.settings import read_yaml, validated

Way = Literal["text", "speech"]
"""How a question is asked: typed or spoken."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class _Measure(Options):
    """Holds the fields that all measures share."""

    name: str = Field("", pattern=r"^[a-z][a-z0-9_]*$|^$", description="Its name in the report; default: the kind.")
    source: SourceConfig | None = Field(None, description="Rows; null: the suite's `source`.")
    augment: list[PartRef] | None = Field(
        None, description="How spoken questions are changed before they are heard; null: the suite's `augment`."
    )
    limit: int | None = Field(None, gt=0, description="Use only this many usable rows from the start.")

    DEFAULT_WAYS: ClassVar[tuple[Way, ...]] = ("text", "speech")

    @property
    def label(self) -> str:
        return self.name or str(self.kind)  # type: ignore[attr-defined]

    def switches(self, suite: Suite) -> dict[str, bool]:
        """Return, for each condition of its metrics (:attr:`Metric.needs`), whether it holds."""
        return {"mos": suite.mos is not None, "expected": True}

    def ways(self) -> tuple[Way, ...]:
        return tuple(getattr(self, "ask", self.DEFAULT_WAYS))

    def metrics(self, suite: Suite) -> list[str]:
        """Return the names of the metrics that these options give, without the measure's name."""
        switches = self.switches(suite)
        return [
            name
            for name, metric in METRICS[self.kind].items()  # type: ignore[attr-defined]
            if (not metric.needs or switches.get(metric.needs, False))
            and (not metric.asked or metric.asked in self.ways())
        ]

    @property
    def headline(self) -> str:
        return HEADLINES[self.kind]  # type: ignore[attr-defined]


class AsrMeasure(_Measure):
    """Measures speech understanding: how well the talker transcribes what it hears (task A1T1)."""

    kind: Literal["asr"] = Field("asr", description="Measure.")
    with_transcriber: bool = Field(False, description="Also the suite's transcriber on the same rows, to compare with.")

    def switches(self, suite: Suite) -> dict[str, bool]:
        return {"with_transcriber": self.with_transcriber}


class SpokenAnswersMeasure(_Measure):
    """Compares what spoken answers say with their own text."""

    kind: Literal["spoken_answers"] = Field("spoken_answers", description="Measure.")
    batch_parallel: bool = Field(True, description="Take the text from a batch row of its own (paper 3.2).")
    ask: list[Way] = Field(["text"], min_length=1, description="How questions are asked: text, speech.")
    keep_sound: bool = Field(False, description="Write every answer as a wav file into the report.")


class ReadingMeasure(_Measure):
    """Compares what the talker says when it reads a text aloud (task T1A1) with that text, a row's `question_text`."""

    DEFAULT_WAYS = ("text",)
    kind: Literal["reading"] = Field("reading", description="Measure.")
    keep_sound: bool = Field(False, description="Write every reading as a wav file into the report.")


class SpokenQaMeasure(_Measure):
    """Looks for expected answers. A row's `answer_text` may hold several, separated by ``|``."""

    kind: Literal["spoken_qa"] = Field("spoken_qa", description="Measure.")
    ask: list[Way] = Field(["speech"], min_length=1, description="How questions are asked: text, speech.")
    match: Literal["contains", "exact"] = Field("contains", description="What `accuracy` counts.")
    hear: bool = Field(False, description="Let it speak, and look in what the transcriber hears as well.")
    batch_parallel: bool = Field(True, description="Take a spoken answer's text from a batch row of its own.")

    def switches(self, suite: Suite) -> dict[str, bool]:
        return {"hear": self.hear}


class TextRetentionMeasure(_Measure):
    """Measures how much is left of the language model that the talker was made from."""

    DEFAULT_WAYS = ("text",)
    kind: Literal["text_retention"] = Field("text_retention", description="Measure.")
    texts: list[str] = Field(default_factory=list, description="Texts for the perplexity.")
    texts_file: str | None = Field(None, description="More of them, one a line; relative to the suite.")
    max_tokens: int = Field(64, gt=0, description="Longest greedy answer that is compared.")

    def switches(self, suite: Suite) -> dict[str, bool]:
        return {"texts": bool(self.texts) or self.texts_file is not None}


class ModalityGapMeasure(_Measure):
    """Asks the same questions as text and as speech, and compares the text answers."""

    kind: Literal["modality_gap"] = Field("modality_gap", description="Measure.")
    transcriber: PartRef | None = Field(
        None, description="A recogniser whose transcript is typed in as well (a cascade); null: none."
    )

    def switches(self, suite: Suite) -> dict[str, bool]:
        return {"transcriber": self.transcriber is not None, "expected": True}


class LatencyMeasure(_Measure):
    """Measures the time from the end of the user's sound to the first PCM, by segment."""

    kind: Literal["latency"] = Field("latency", description="Measure.")
    ask: list[Way] = Field(["speech"], min_length=1, max_length=1, description="How questions are asked.")
    warmup: int = Field(2, ge=0, description="Answers before the clock counts.")
    repeats: int = Field(1, gt=0, description="How often each question is asked.")
    stride_frames: int = Field(1, gt=0, description="Codec frames per piece of sound, as `anytalk talk --stride`.")


class CascadeMeasure(_Measure):
    """Compares the talker with the usual alternative: a recogniser, the same language model and a synthesizer."""

    kind: Literal["cascade"] = Field("cascade", description="Measure.")
    transcriber: PartRef | None = Field(None, description="The cascade's ears; null: the suite's transcriber.")
    synthesizer: PartRef | None = Field(None, description="Synthesizer of the cascade; null: the suite's.")
    voice: str | None = Field(None, description="Voice of the answers; null: the synthesizer's first.")
    by_sentence: bool = Field(True, description="Speak each sentence as soon as it is written, not the whole answer.")
    max_tokens: int = Field(128, gt=0, description="Longest answer of the language model.")
    warmup: int = Field(1, ge=0, description="Answers of both before the clock counts.")


class LossMeasure(_Measure):
    """Measures the training losses of one task on held-out rows, row by row."""

    kind: Literal["loss"] = Field("loss", description="Measure.")
    task: str = Field(description="Task, e.g. T1A1.")
    data: str = Field(description="Prepared folder, data.yaml or manifest, as `--held-out`; relative to the suite.")

    def switches(self, suite: Suite) -> dict[str, bool]:
        task = find_task(self.task)
        return {"writes": task.text_in_loss, "speaks": task.audio_out}

    @property
    def headline(self) -> str:
        return HEADLINES[self.kind] if find_task(self.task).audio_out else "text"

    @pydantic.field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            return find_task(name).name
        except UnknownNameError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None


class PooledMeasure(_Measure):
    """Pools the word errors of earlier measures over all their examples, without asking again."""

    kind: Literal["pooled"] = Field("pooled", description="Measure.")
    of: list[str] = Field(min_length=1, description="Names of measures before it: asr, spoken_answers or reading.")


AnyMeasure = Annotated[
    AsrMeasure
    | SpokenAnswersMeasure
    | ReadingMeasure
    | SpokenQaMeasure
    | TextRetentionMeasure
    | ModalityGapMeasure
    | LatencyMeasure
    | CascadeMeasure
    | LossMeasure
    | PooledMeasure,
    Field(discriminator="kind"),
]

MEASURES: dict[str, type[_Measure]] = {kind.model_fields["kind"].default: kind for kind in _Measure.__subclasses__()}
"""Maps the kinds of measures to their classes."""

POOLABLE = ("asr", "spoken_answers", "reading")
"""Kinds of measures whose examples count word errors."""

BASELINES = ("cascade",)
"""Names that ``--baseline`` accepts."""


class Published(Options):
    """Describes a row of the comparison: the word errors that someone else publishes for the same sets."""

    name: str = Field(description="Who, and where it is written.")
    figures: dict[str, float] = Field(description="Name of a measure -> its word error rate, 0 to 1.")


class Suite(Options):
    """Describes everything that is measured of a talker."""

    name: str = Field("suite", description="Title of the report.")
    seed: int = Field(0, description="Seed of the bootstrap and of everything drawn by chance.")
    measures: list[AnyMeasure] = Field(min_length=1, description="What is measured, in this order.")
    source: SourceConfig | None = Field(None, description="Rows of the measures that name none.")
    augment: list[PartRef] = Field(
        default_factory=list,
        description="Augmentations of the spoken questions, in this order, seeded by `seed` and the row.",
    )
    transcriber: PartRef = Field(
        default_factory=lambda: PartRef(name="whisper"), description="The judge of what is said."
    )
    synthesizer: PartRef | None = Field(
        None, description="Synthesizer for questions without sound and for the cascade."
    )
    question_voice: str | None = Field(None, description="Voice of those questions; null: the synthesizer's first.")
    mos: Literal["distillmos", "dnsmos"] | None = Field(
        None, description="Predictor of the mean opinion score (an optional package); null: none."
    )
    max_columns: int = Field(256, gt=0, description="Longest answer, in grid columns.")
    speaker: str | None = Field(None, description="Answering voice of talkers with several.")
    bootstrap_samples: int = Field(1000, ge=0, description="Resamplings for the 95 % intervals; 0: no intervals.")
    published: list[Published] = Field(
        default_factory=list, description="Rows of others for a table with a column for each measure; none: no table."
    )
    worst: int = Field(5, ge=0, description="How many of the worst examples are shown.")
    _left_out: str = pydantic.PrivateAttr("")

    @property
    def left_out(self) -> str:
        """Return a sentence about measures whose rows are in a missing folder, or "" if there are none."""
        return self._left_out

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Suite:
        labels = [measure.label for measure in self.measures]
        for source in [self.source, *(measure.source for measure in self.measures)]:
            # These fields only affect training.
            extra = {"tasks", "weight", "filters"} & (source.model_fields_set if source else set())
            if extra:
                raise ValueError(f"a source of an evaluation has no {', '.join(sorted(extra))}: leave it out")
        counted = [measure.label for measure in self.measures if measure.kind in (*POOLABLE, "pooled")]
        for name in [name for row in self.published for name in row.figures]:
            if name not in counted:
                near = did_you_mean(name, counted)
                raise ValueError(f"published: no measure of word errors is called '{name}'{near}")
        for measure in self.measures:
            if labels.count(measure.label) > 1:
                raise ValueError(f"two measures are called '{measure.label}': give them names of their own (name: ...)")
            if measure.augment and "speech" not in measure.ways():
                raise ValueError(f"measure '{measure.label}' hears no question, so it has no augment: leave it out")
            if isinstance(measure, PooledMeasure):
                _check_pooled(measure, self.measures)
            elif isinstance(measure, LossMeasure):
                if extra := {"source", "augment"} & measure.model_fields_set:
                    raise ValueError(f"measure '{measure.label}' has `data`, and no {', '.join(sorted(extra))}")
            elif measure.source is None and self.source is None:
                raise ValueError(f"measure '{measure.label}' has no source, and neither has the suite")
        return self

    def metric_names(self) -> list[str]:
        """Return the names of all metrics as ``measure.metric``, as in ``report.json`` and ``--fail-if``."""
        return [f"{measure.label}.{metric}" for measure in self.measures for metric in measure.metrics(self)]

    def with_baseline(self, name: str) -> Suite:
        """Return the suite with a baseline added, unless it already has one.

        Raises:
            ConfigError: an unknown baseline, or no questions to compare on.
        """
        if name not in BASELINES:
            raise ConfigError(f"unknown baseline '{name}'", f"baselines: {', '.join(BASELINES)}")
        if any(measure.kind == name for measure in self.measures):
            return self
        sources = [m.source for m in self.measures if m.kind in ("spoken_qa", "modality_gap", "latency")]
        source = next((s for s in sources if s is not None), None)
        if source is None and self.source is None:
            raise ConfigError("the suite has no questions to compare on", "give the suite a `source:`")
        added = CascadeMeasure.model_validate({"kind": name, "source": source})
        return self.model_copy(update={"measures": [*self.measures, added]})


def _check_pooled(measure: PooledMeasure, measures: Sequence[AnyMeasure]) -> None:
    """Raise ValueError if a measure pools one that doesn't come before it or counts no word errors."""
    extra = {"source", "limit", "augment"} & measure.model_fields_set
    if extra:
        raise ValueError(f"measure '{measure.label}' asks nothing, so it has no {', '.join(sorted(extra))}")
    kinds = {other.label: other.kind for other in measures[: measures.index(measure)]}
    for name in measure.of:
        if name not in kinds:
            raise ValueError(
                f"measure '{measure.label}' pools '{name}', but no measure of that name comes before it"
                f"{did_you_mean(name, list(kinds))}"
            )
        if kinds[name] not in POOLABLE:
            raise ValueError(
                f"measure '{measure.label}' pools '{name}' of kind {kinds[name]}, which counts no word errors; "
                f"{', '.join(POOLABLE)} do"
            )


def read_suite(path: Path) -> Suite:
    """Read ``suite.yaml``; paths in it are relative to its folder.

    ``${NAME:-OTHERWISE}`` in a source's path stands for an environment variable. If such a path doesn't exist, its
    measures are left out, and :attr:`Suite.left_out` says so.

    Raises:
        DataError: the file doesn't exist or isn't YAML.
        ConfigError: wrong fields, all of them at once.
    """
    if not path.is_file():
        raise DataError(f"suite '{path}' doesn't exist", "give a .yaml file, e.g. examples/suites/quick.yaml")
    hint = f"measures: {', '.join(MEASURES)}; see docs/evaluation.md"
    suite = validated(Suite, read_yaml(path, DataError), f"'{path}' is not well-formed", hint)
    return _anchored(suite, path.parent)


def _anchored(suite: Suite, folder: Path) -> Suite:
    """Fill in variables, make local paths absolute (hub ids and addresses stay), and drop measures without rows."""
    missing: dict[str, str] = {}  # label of a measure -> where its rows should be
    named: set[str] = set()

    def source(found: SourceConfig | None, users: Sequence[str]) -> SourceConfig | None:
        if found is None:
            return None
        path, variables = with_variables(found.path)
        anchored = found.model_copy(update={"path": path}).anchored(folder.absolute())
        if variables and "://" not in path and not Path(anchored.path).exists():
            missing.update(dict.fromkeys(users, anchored.path))
            named.update(variables)
        return anchored

    measures: list[AnyMeasure] = []
    sourceless = [
        m.label for m in suite.measures if m.source is None and not isinstance(m, PooledMeasure | LossMeasure)
    ]
    shared = source(suite.source, sourceless)
    for measure in suite.measures:
        update: dict[str, Any] = {"source": source(measure.source, [measure.label])}
        if isinstance(measure, TextRetentionMeasure) and measure.texts_file is not None:
            update["texts_file"] = str((folder / measure.texts_file).absolute())
        if isinstance(measure, LossMeasure) and "://" not in measure.data:
            update["data"] = str((folder / measure.data).absolute())
        # A pooled measure can't do without any of its measures.
        if isinstance(measure, PooledMeasure) and (lacking := missing.keys() & measure.of):
            missing[measure.label] = missing[min(lacking)]
        measures.append(measure.model_copy(update=update))
    anchored = suite.model_copy(update={"source": shared, "measures": [m for m in measures if m.label not in missing]})
    if missing:
        which = "all measures" if not anchored.measures else f"{len(missing)} measures ({', '.join(missing)})"
        anchored._left_out = (
            f"{which} left out: '{next(iter(missing.values()))}' isn't there; set {' and '.join(sorted(named))} to the "
            "folder of the recordings"
        )
    return anchored


def with_variables(path: str) -> tuple[str, list[str]]:
    """Fill in ``${NAME}`` and ``${NAME:-OTHERWISE}`` from the environment; return the path and the names in it.

    A relative value of a variable is relative to the current folder.

    Raises:
        ConfigError: a variable without OTHERWISE isn't set.
    """
    names = []

    def value(found: re.Match[str]) -> str:
        names.append(found[1])
        given = os.environ.get(found[1])
        if given:
            return str(Path(given).expanduser().absolute())
        if found[2] is None:
            raise ConfigError(f"'{path}' names the variable {found[1]}, which isn't set", f"export {found[1]}=FOLDER")
        return found[2]

    return _VARIABLE.sub(value, path), names
