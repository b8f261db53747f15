"""Count what the server does, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """Holds the metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge("anytalk_sessions", "Places that are taken.", registry=registry)
        self.places = Gauge("anytalk_session_places", "Places that there are.", registry=registry)
        self.refused = Counter("anytalk_refused", "Requests refused.", ["code"], registry=registry)
        self.answers = Counter("anytalk_answers", "Answers by how they ended.", ["status"], registry=registry)
        self.columns = Counter("anytalk_columns", "Grid columns generated.", registry=registry)
        self.rounds = Counter(
            "anytalk_rounds", "Rounds of the model: columns / rounds is the batch.", registry=registry
        )
        self.audio_s = Counter("anytalk_audio_seconds", "Seconds of speech generated.", registry=registry)
        self.first_audio_s = Histogram(
            "anytalk_first_audio_seconds", "From the question to the first sound.", buckets=_SECONDS, registry=registry
        )
        self.dropped = Counter("anytalk_dropped_clients", "Clients that took too slowly.", registry=registry)

    def count_round(self, columns: int) -> None:
        """Count one round of the model and the columns that it generated."""
        if columns:
            self.columns.inc(columns)
            self.rounds.inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
