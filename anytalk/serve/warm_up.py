"""Questions before anybody asks: what is loaded or built when it is first needed is there when people come."""

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
"""With a number, and a word that no dictionary has."""
_COLUMNS = 40
"""Long enough for the first sound of any talker that is not slower than a second and a half to begin."""
_PATIENCE_S = 300.0


def warm_up(state: ServerState) -> None:
    """Start the model's thread, and let it hear, answer and read aloud as for clients; nothing of it is remembered.

    A model that is served elsewhere is asked nothing. What fails is logged, and doesn't end the server: a client who
    asks is told of it again.

    Args:
        state: Of a server that hasn't started yet.
    """
    state.model.start()
    VoiceDetector().probability(np.zeros(WINDOW, dtype=np.float32))
    asyncio.run(anyio.to_thread.run_sync(int))  # loads what answers over HTTP are made with
    load_webrtc()
    options = state.decode_options(_COLUMNS)
    if state.talker.model.listener is not None:
        rate_hz = state.ear_rate_hz
        # Noise: silence is refused before ears hear it, and what they make of noise doesn't matter.
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
