"""Run a suite measure by measure, and rewrite the report after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytalk.data.augment import make_augment
from anytalk.data.examples import Progress
from anytalk.errors import AnytalkError
from anytalk.evaluate.bounds import Bound
from anytalk.evaluate.config import AnyMeasure, Suite
from anytalk.evaluate.lab import Lab
from anytalk.evaluate.loss_measure import measure_loss
from anytalk.evaluate.metrics import METRICS
from anytalk.evaluate.provenance import identity, load_average, machine, models, packages
from anytalk.evaluate.report import Report, read_partial, write_report
from anytalk.evaluate.results import Result
from anytalk.evaluate.speech_measures import (
    measure_asr,
    measure_pooled,
    measure_reading,
    measure_spoken_answers,
    measure_spoken_qa,
)
from anytalk.evaluate.text_measures import measure_modality_gap, measure_text_retention
from anytalk.evaluate.time_measures import measure_cascade, measure_latency
from anytalk.model.talker import Talker
from anytalk.plugins.manager import one_line
from anytalk.plugins.optional import require

_RUNNERS: dict[str, Callable[[Lab, Any, Result], None]] = {
    "asr": measure_asr,
    "spoken_answers": measure_spoken_answers,
    "reading": measure_reading,
    "spoken_qa": measure_spoken_qa,
    "text_retention": measure_text_retention,
    "modality_gap": measure_modality_gap,
    "latency": measure_latency,
    "cascade": measure_cascade,
    "loss": measure_loss,
    "pooled": measure_pooled,
}


@dataclass
class EvalWatcher:
    """Holds functions that are told about progress."""

    started: Callable[[AnyMeasure], None] = lambda measure: None  # called when a measure starts
    progress: Progress = lambda done, total: None  # called while it runs
    # Called with its result, also for measures that an interrupted run finished.
    finished: Callable[[Result], None] = lambda result: None


def run_suite(
    talker: Talker,
    suite: Suite,
    out: Path,
    *,
    bounds: Sequence[Bound] = (),
    command: Sequence[str] = (),
    watcher: EvalWatcher | None = None,
) -> Report:
    """Measure everything in a suite and write the report.

    A measure that fails becomes a line with its reason, and the others continue. An interrupted report in the same
    folder is resumed, where talker and options are the same; a complete one is replaced.

    Returns:
        The report as it was written.

    Raises:
        ConfigError: packages of the extra `report` are missing.
        DataError: the folder can't be written.
    """
    require("a report", "report", "matplotlib", "jiwer")
    watcher = watcher or EvalWatcher()
    report = Report(
        suite=suite,
        talker=str(talker.folder or ""),
        config=talker.config,
        arithmetic=talker.arithmetic,
        command=list(command),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(talker.device),
        packages=packages(),
        models=models(talker.config, suite, talker.registry),
        bounds=list(bounds),
    )
    finished = read_partial(out)
    lab = Lab(talker, suite, out, progress=watcher.progress)
    for measure in suite.measures:
        mark = identity(talker, suite, measure)
        known = finished.get(measure.label)
        # The measures that it pools may have been measured again.
        if known is not None and known.identity == mark and known.status == "ok" and measure.kind != "pooled":
            result = known
        else:
            watcher.started(measure)
            result = run_measure(lab, measure)
            result.identity = mark
        report.results.append(result)
        lab.results[measure.label] = result
        report.is_complete = len(report.results) == len(suite.measures)
        write_report(report, out)
        watcher.finished(result)
    return report


def run_measure(lab: Lab, measure: AnyMeasure) -> Result:
    """Run one measure; if it fails, the result holds the reason."""
    result = Result(measure.label, measure.kind, measure.headline)
    # A measure must not depend on the measures before it, which a resumed run skips.
    torch.manual_seed(lab.suite.seed)
    np.random.seed(lab.suite.seed)
    began = time.perf_counter()
    try:
        augment = lab.suite.augment if measure.augment is None else measure.augment
        lab.augment = make_augment(augment, lab.suite.seed, lab.talker.registry)
        _RUNNERS[measure.kind](lab, measure, result)
        if not result.items:
            why = f", e.g. {result.skipped[0]['id']}: {result.skipped[0]['reason']}" if result.skipped else ""
            result.status, result.reason = "failed", f"none of its rows could be measured{why}"
    except AnytalkError as error:
        result.status = "failed"
        result.reason = f"{error.message} ({error.hint})" if error.hint else error.message
    except Exception as error:  # plugins may raise anything, and the other measures have to go on
        result.status, result.reason = "failed", f"a bug of anytalk or of a plugin: {one_line(error)}"
    # Reports list figures in the order of METRICS.
    order = list(METRICS[measure.kind])
    result.figures = dict(sorted(result.figures.items(), key=lambda item: order.index(item[0])))
    if result.status == "failed":
        result.figures = {}
    result.seconds = time.perf_counter() - began
    result.load_average = load_average()
    return result
