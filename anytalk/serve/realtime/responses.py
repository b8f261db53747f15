"""Manage the responses of a session: one in the conversation, and a few outside of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anytalk.decode.memory import Memory
from anytalk.serve.errors import RequestError
from anytalk.serve.realtime.events import ResponseOptions
from anytalk.serve.realtime.items import Conversation
from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.realtime.planning import plan_response
from anytalk.serve.realtime.response import Response
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.state import ServerState

_MAX_BESIDE = 2
"""Limit of responses with `conversation: "none"`; each takes a row of the batch that all clients share."""


class Responses:
    """Starts, cancels and ends a session's responses.

    Args:
        memory: The model's memory of the conversation.
        when_over: Called with each response of the conversation when it has ended.

    Attributes:
        active: The running response of the conversation, or None.
    """

    def __init__(
        self,
        state: ServerState,
        outbox: Outbox,
        conversation: Conversation,
        memory: Memory,
        when_over: Callable[[Response], Any],
    ) -> None:
        self._state, self._outbox, self._conversation, self._memory = state, outbox, conversation, memory
        self._when_over = when_over
        self.active: Response | None = None
        self._beside: list[Response] = []

    @property
    def is_busy(self) -> bool:
        """Tell whether any response is running."""
        return self.active is not None or bool(self._beside)

    def begin(self, options: SessionOptions, wanted: ResponseOptions) -> None:
        """Start a response.

        Raises:
            RequestError: too many responses are running, there is nothing to answer, or something isn't supported.
        """
        if self._state.admission.is_closed:
            raise RequestError("the server is shutting down", "server_shutting_down", status=503)
        if not options.answers:
            raise RequestError(
                "a session of the type 'transcription' is not answered; open one of the type 'realtime'",
                "unsupported_event",
            )
        is_beside = wanted.conversation == "none"
        if self.active is not None and not is_beside:
            raise RequestError(
                f"the response {self.active.id} is still in progress; wait for its end or cancel it",
                "conversation_already_has_active_response",
            )
        if is_beside and len(self._beside) >= _MAX_BESIDE:
            said = f"{_MAX_BESIDE} responses outside the conversation are in progress; wait until one ends"
            raise RequestError(said, "rate_limit_exceeded")
        plan = plan_response(self._state, options, wanted, self._conversation)
        memory = None if is_beside else self._memory
        response = Response(plan, self._state, self._outbox, self._conversation, memory, self._is_over)
        if is_beside:
            self._beside.append(response)
        else:
            self.active = response
        response.start()

    def interrupt(self, reason: str) -> None:
        """Cancel the response of the conversation, if one is running; see :meth:`Response.cancel` for `reason`."""
        if self.active is not None:
            self.active.cancel(reason)

    def cancel(self, response_id: str | None) -> None:
        """Cancel a response by id, or the one of the conversation; RequestError if it isn't running."""
        running = [*self._beside, *([self.active] if self.active is not None else [])]
        for response in running:
            if response_id == response.id or (response_id is None and response is self.active):
                response.cancel("client_cancelled")
                return
        # Clients compare the beginning of this message, and then don't treat the error as a failure.
        raise RequestError(
            "Cancellation failed: no such response is in progress", "response_cancel_not_active", "response_id"
        )

    def abandon(self) -> None:
        """Stop all responses without events, because the client is gone."""
        for response in [*self._beside, *([self.active] if self.active is not None else [])]:
            response.abandon()

    def _is_over(self, response: Response) -> None:
        if response is self.active:
            self.active = None
            self._when_over(response)
        else:
            self._beside.remove(response)
