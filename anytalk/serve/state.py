"""Hold what all requests of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.sampling import SamplingOptions
from anytalk.errors import AnytalkError
from anytalk.grid.tools import ToolSpelling
from anytalk.model.talker import Talker
from anytalk.serve.calling import spelling_of
from anytalk.serve.errors import RequestError, of_ours
from anytalk.serve.limits import Admission, RateLimit
from anytalk.serve.metrics import Metrics
from anytalk.serve.model_thread import ModelThread
from anytalk.serve.settings import ServeSettings
from anytalk.serve.short_keys import ShortKeys


@dataclass
class ServerState:
    """Holds a talker, its thread and its limits."""

    talker: Talker
    settings: ServeSettings  # limits
    model_name: str  # name in `/v1/models`
    metrics: Metrics = field(default_factory=Metrics)
    model: ModelThread = field(init=False)
    admission: Admission = field(init=False)
    rate: RateLimit = field(init=False)
    spelling: ToolSpelling | None = field(init=False)  # how the model writes function calls; None if it can't
    keys: ShortKeys = field(default_factory=ShortKeys)  # short keys, each with the options of its session

    def __post_init__(self) -> None:
        self.model = ModelThread(self.talker, self.settings.stride_frames, self.metrics.count_round)
        self.spelling = spelling_of(self.talker)
        self.admission = Admission(self.settings.max_sessions)
        self.rate = RateLimit(self.settings.requests_per_minute)
        self.metrics.sessions.set_function(lambda: float(self.admission.taken))
        self.metrics.places.set(self.settings.max_sessions)

    @property
    def max_turn_s(self) -> float:
        ears = self.talker.model.listener
        most = None if ears is None else ears.max_duration_s
        return self.settings.max_turn_s if most is None else min(self.settings.max_turn_s, most)

    @property
    def ear_rate_hz(self) -> int:
        """Return the sample rate of spoken questions; RequestError if the talker has no ears."""
        ears = self.talker.model.listener
        if ears is None:
            raise RequestError("this talker has no ears; ask by text", "unsupported_value")
        return ears.sample_rate_hz

    def decode_options(
        self, max_tokens: int | None = None, seed: int | None = None, stops: tuple[str, ...] = (), **text: Any
    ) -> DecodeOptions:
        """Return the options of an answer, greedy by default; RequestError for a value out of range."""
        columns = self.settings.max_columns
        try:
            return DecodeOptions(
                text=SamplingOptions(**{name: value for name, value in text.items() if value is not None}),
                max_columns=columns if max_tokens is None else min(columns, max_tokens),
                rule=self.talker.config.decode_rule,
                stops=stops,
                seed=seed,
            )
        except AnytalkError as error:
            raise of_ours(error) from None
