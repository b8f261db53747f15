"""Serve ``/v1/realtime/calls``, the Realtime protocol over WebRTC."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import Response

from anytalk.serve.errors import RequestError, check_values
from anytalk.serve.realtime.client_secrets import first_options
from anytalk.serve.realtime.session import RealtimeSession
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.realtime.updates import LeftOut, updated
from anytalk.serve.security import CALLS_PATH, given_key
from anytalk.serve.state import ServerState

if TYPE_CHECKING:
    from anytalk.serve.realtime.call import Call

_MAX_SDP_BYTES = 64 << 10
_MAX_SESSION_BYTES = 256 << 10
_MAX_CANDIDATES = 64
"""Limit of the addresses in an offer, to each of which the server sends a few packets."""


def load_webrtc() -> bool:
    """Import the packages for calls, which takes a moment; return whether they are installed."""
    if find_spec("aiortc") is None:
        return False
    import anytalk.serve.realtime.call  # noqa: F401

    return True


class Calls:
    """Holds the calls of one server by id."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._running: dict[str, tuple[Call, asyncio.Task[None]]] = {}

    async def begin(self, offer: str, options: SessionOptions, left_out: list[LeftOut]) -> Call:
        """Answer an offer and start the call, which holds a place until it ends.

        Raises:
            RequestError: the offer can't be answered, no place is left, or the server is stopping.
        """
        check_offer(offer)
        if not await run_in_threadpool(load_webrtc):
            said = "calls need the package aiortc on the server: pip install 'anytalk[webrtc]'"
            raise RequestError(said, "webrtc_not_installed", status=501)
        from anytalk.serve.realtime.call import Call

        await self.state.admission.wait_for_leaving()
        with ExitStack() as held:
            held.enter_context(self.state.admission.place())
            call = Call(self.state.settings)
            await call.answer(offer)
            session = RealtimeSession(self.state, call, options, left_out)
            # The call's task now frees the place, not this block.
            task = asyncio.create_task(self._run(call, session, held.pop_all()))
        self._running[call.id] = call, task
        return call

    def hang_up(self, call_id: str) -> None:
        """End a call; RequestError if there is no call with this id."""
        if call_id not in self._running:
            raise RequestError(f"there is no call '{call_id[:80]}'", "not_found", "call_id", status=404)
        self._running[call_id][0].hang_up()

    async def close(self) -> None:
        """End all calls and wait until they have ended."""
        running = list(self._running.values())
        for call, _ in running:
            call.hang_up()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _run(self, call: Call, session: RealtimeSession, place: ExitStack) -> None:
        with place:
            try:
                await call.run(session)
            finally:
                del self._running[call.id]


def call_routes(calls: Calls) -> APIRouter:
    """Return the endpoints."""
    router, state = APIRouter(), calls.state

    @router.post(CALLS_PATH)
    async def create(request: Request) -> Response:
        offer, asked = await _read_offer(request)
        agreed = state.keys.find(given_key(request.headers)) or first_options(state)
        options, left_out = updated(agreed, asked, state.talker, state.settings.max_text_chars)
        call = await calls.begin(offer, options, left_out)
        headers = {"Location": f"{CALLS_PATH}/{call.id}"}
        return Response(call.sdp, 201, headers, media_type="application/sdp")

    @router.post(f"{CALLS_PATH}/{{call_id}}/hangup")
    async def hang_up(call_id: str) -> Response:
        calls.hang_up(call_id)
        return Response(status_code=200)

    return router


def check_offer(sdp: str) -> None:
    """Check that an offer is one for a voice call; RequestError if it isn't."""
    if not sdp.startswith("v=0"):
        raise RequestError("the offer is not SDP: it doesn't begin with v=0", "invalid_sdp", "sdp")
    kinds = re.findall(r"^m=(\w+)", sdp, re.MULTILINE)
    if sorted(kinds) != ["application", "audio"]:
        raise RequestError(
            f"the offer has {', '.join(kinds[:8]) or 'nothing'}; a call has one audio track and one data channel:"
            " addTrack or addTransceiver('audio'), and createDataChannel('oai-events'), before createOffer",
            "invalid_sdp",
            "sdp",
        )
    if re.search(r"^a=(sendonly|inactive)\b", sdp, re.MULTILINE):
        raise RequestError("the offer accepts no sound; offer the audio track as sendrecv", "invalid_sdp", "sdp")
    if len(re.findall(r"^a=candidate:", sdp, re.MULTILINE)) > _MAX_CANDIDATES:
        raise RequestError(f"the offer has more than {_MAX_CANDIDATES} candidates", "invalid_sdp", "sdp")


async def _read_offer(request: Request) -> tuple[str, dict[str, Any]]:
    """Read an SDP offer from the body: alone, or in a form together with a session."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/sdp":
        return _text(await request.body(), "sdp", _MAX_SDP_BYTES), {}
    if kind != "multipart/form-data":
        raise RequestError(
            f"the content type is {kind[:60] or 'missing'!r}; send an SDP offer as application/sdp, or a"
            " multipart/form-data with the fields sdp and session",
            "unsupported_content_type",
            status=415,
        )
    async with request.form(max_files=2, max_fields=4, max_part_size=_MAX_SESSION_BYTES) as form:
        parts = {name: await _data(form.get(name)) for name in ("sdp", "session")}
    if not parts["sdp"]:
        raise RequestError("the form has no field 'sdp'", "missing_required_parameter", "sdp")
    written = _text(parts["session"], "session", _MAX_SESSION_BYTES)
    check_values(written)
    try:
        session = json.loads(written or "{}")
    except (ValueError, RecursionError):
        session = None
    if not isinstance(session, dict):
        raise RequestError("the field 'session' is not a JSON object", "invalid_json", "session")
    return _text(parts["sdp"], "sdp", _MAX_SDP_BYTES), session


async def _data(part: UploadFile | str | None) -> bytes:
    if isinstance(part, UploadFile):
        return await part.read()
    return (part or "").encode()


def _text(data: bytes, name: str, most: int) -> str:
    if len(data) > most:
        raise RequestError(f"{name} is larger than {most >> 10} KiB", "request_too_large", name, status=413)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8", "invalid_value", name) from None
