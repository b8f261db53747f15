"""Define the settings of a server: addresses, keys, limits. Imports neither torch nor a web framework."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from anytalk.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
"""Matches what a WebSocket subprotocol may hold (a token of RFC 9110), because browsers send the key in one."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Holds the settings of one server."""

    host: str = "127.0.0.1"  # address to bind to
    port: int = 8000  # TCP port; 0 lets the system choose one
    api_key: str | None = None  # key that clients must send; None admits everyone who reaches the port
    tls_cert: Path | None = None  # certificate chain in PEM, together with `tls_key`
    tls_key: Path | None = None  # private key in PEM
    # Origins of other servers whose pages may use this one, such as `https://example.org`.
    allow_origins: tuple[str, ...] = ()
    # Addresses of trusted proxies, whose X-Forwarded-For gives the client's address.
    proxies: tuple[str, ...] = ()
    max_sessions: int = 8  # conversations and HTTP answers at the same time
    max_turn_s: float = 30.0  # longest spoken question; the encoder may have a lower limit
    max_columns: int = 512  # longest answer, in grid columns
    max_context_columns: int = 2048  # columns of a conversation that the model sees; the oldest turns are dropped first
    max_items: int = 200  # most items in a conversation
    max_sound_s: float = 120.0  # sound of the user's turns that a conversation keeps for retrieval; 32 kB per second
    max_file_s: float = 600.0  # longest sound file to transcribe with transcribing ears; it is cut at silences
    # Speech in one conversation or chat that waits for an answer; 64 kB per second.
    max_unheard_s: float = 300.0
    idle_s: float = 300.0  # a session ends after this time without a message
    session_s: float = 3600.0  # any session ends after this time
    drain_s: float = 10.0  # time for running answers when the server is told to stop
    send_timeout_s: float = 20.0  # a client that accepts nothing for this time is dropped
    body_s: float = 300.0  # longest time for a whole body to arrive
    max_unsent_bytes: int = 8 << 20  # a client with more unsent data than this is dropped
    max_frame_bytes: int = 4 << 20  # largest WebSocket message
    max_body_bytes: int = 25 << 20  # largest HTTP body
    max_text_chars: int = 20_000  # longest text in an event or a request
    requests_per_minute: int = 600  # HTTP requests and new sessions per address; a burst may be a quarter of it
    events_per_second: int = 200  # client events per session; a burst may be ten times as many
    stride_frames: int = 2  # codec frames per piece of sound

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_turn_s", "max_columns", "idle_s", "session_s", "stride_frames"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0", "change it or leave it out")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("the key is empty", "give --api-key a word, or leave it out on this machine")
        if self.api_key is not None and not _TOKEN.fullmatch(self.api_key):
            raise ConfigError(
                "the key holds characters that a browser can't send with a WebSocket",
                "use ASCII letters, digits and any of !#$%&'*+-.^_`|~",
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs a certificate and its key; one of them was given", "give both or neither")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"'{path}' doesn't exist", "give the path of a PEM file")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_tls(self.tls_cert, self.tls_key)
        if not self.is_local and self.api_key is None:
            raise ConfigError(
                f"binding to {self.host} lets everybody who can reach this machine use the model, listen in their own"
                " sessions and fill its time, and no key was given",
                "add --api-key KEY (or set ANYTALK_API_KEY), or stay on this machine with --host 127.0.0.1",
            )

    @property
    def is_local(self) -> bool:
        """Tell whether only this machine can reach the port."""
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert is not None else "http"


def _check_tls(cert: Path, key: Path) -> None:
    """Load the certificate now, because uvicorn would do so only after the talker is loaded."""

    def no_password() -> bytes:
        raise ConfigError(f"'{key}' is locked by a password", "openssl pkey -in KEY -out UNLOCKED writes one without")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except OSError as error:  # includes ssl.SSLError
        raise ConfigError(
            f"'{cert}' and '{key}' are not a certificate and its key: {getattr(error, 'reason', None) or error}",
            "give two PEM files that belong together",
        ) from None


def is_loopback(host: str) -> bool:
    """Return whether an address or a name is this machine's own."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def open_socket(settings: ServeSettings) -> socket.socket:
    """Open a listening socket; a port in use is then an error of ours instead of a traceback of uvicorn.

    Raises:
        ConfigError: an address that isn't this machine's, or a port that is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio disables Nagle's algorithm, which delays small events by 40 ms, only if the protocol is given.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((settings.host.strip("[]"), settings.port))
    except (OSError, OverflowError) as error:
        opened.close()
        raise ConfigError(
            f"{settings.host} port {settings.port} can't be opened: {getattr(error, 'strerror', None) or error}",
            "choose another --port, or end what uses this one",
        ) from None
    opened.listen(256)
    return opened
