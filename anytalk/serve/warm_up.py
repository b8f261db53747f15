"""Answer a few questions before the first client comes, so that everything is loaded and built."""

from __future__ import annotations

import asyncio
import logging
import threading

import anyio.to_thread
import numpy as np

from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Said, Speech
from anytalk.grid.tasks import TASKS
from anytalk.plugins.contracts import ServedBackbone
from anytalk.serve.realtime.calls import load_webrtc
from anytalk.serve.realtime.vad import WINDOW, VoiceDetector
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
_SPOKEN_S = 1.0
_TYPED = "Hello! What is 2 and 2?"
_READ = "The 42 wugs."
"""Text to read; its number and its unknown word load what other texts don't need."""
_COLUMNS = 40
"""Enough columns for the first sound of a talker that starts to speak within a second and a half."""
_PATIENCE_S = 300.0


def warm_up(state: ServerState) -> None:
    """Start the model's thread and let it hear, answer and read aloud as for clients; nothing of it is remembered.

    A model that is served elsewhere is asked nothing. Failures are logged and don't stop the server, because a client
    that asks gets the error again.

    Args:
        state: State of a server that hasn't started yet.
    """
    state.model.start()
    VoiceDetector().probability(np.zeros(WINDOW, dtype=np.float32))  # loads and runs the detector
    asyncio.run(anyio.to_thread.run_sync(int))  # loads anyio's threads, which HTTP answers use
    load_webrtc()
    options = state.decode_options(_COLUMNS)
    if state.talker.model.listener is not None:
        rate_hz = state.ear_rate_hz
        # Noise instead of silence, which is refused before the ears hear it; the answer doesn't matter.
        wave = np.random.default_rng(0).standard_normal(round(_SPOKEN_S * rate_hz)).astype(np.float32) / 10
        _ask(state, Question(turns=[Said("user", speech=Speech(wave))], task=TASKS["A1T1"], options=options))
    if not isinstance(state.talker.model.backbone, ServedBackbone):
        _ask(state, Question(turns=[Said("user", _TYPED)], task=TASKS["T1A2"], options=options))
    _ask(state, Question(turns=[Said("user", _READ)], task=TASKS["T1A1"], options=options))


def _ask(state: ServerState, question: Question) -> None:
    over = threading.Event()

    def emit(event: Event) -> None:
        if isinstance(event, Failed):
            log.log(logging.ERROR if event.is_ours else logging.DEBUG, "the first question failed: %s", event.message)
        if isinstance(event, Ended | Failed):
            over.set()

    job = Job(question, emit)
    state.model.submit(job)
    if not over.wait(_PATIENCE_S):
        job.cancel()
        log.error("the first question took longer than %d s", _PATIENCE_S)
