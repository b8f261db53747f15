"""Asks a language model by OpenAI's chat completions and receives its text as a stream; shared by two backbones."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cached_property, lru_cache, partial
from typing import Any, NoReturn
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from anytalk import plugins
from anytalk.errors import AnytalkError, ConfigError, ServedError
from anytalk.plugins.contracts import ServedBackbone, TextRequest, TextStream
from anytalk.plugins.endpoint import DEFAULT_KEY_VARIABLE, in_a_line, is_address, load_openai, read_key
from anytalk.plugins.thoughts import ThoughtReader

_NO_KEY = "none"
_CONNECT_S = 5.0
_LONGEST_PAUSE_S = 2.0
"""A busy endpoint is asked once more if it wants a pause of at most this: nobody waits longer in a conversation."""
_CHARACTERS_PER_TOKEN = 16
"""No model's tokens are longer on average, so a server that sends more characters ignores the token limit."""


class EndpointOptions(plugins.Options):
    """Says where the model is and how it is asked."""

    weight_sources = ("model",)

    model: str = Field(description="Base address of the API, for example http://127.0.0.1:8000/v1.")
    name: str | None = Field(None, description="Name of the model there; written by `attach --model`.")
    key_from: str | None = Field(
        None,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the API key; null: OPENAI_API_KEY, where it is set. The key "
        "itself is never written down.",
    )
    timeout_s: float = Field(60.0, gt=0, description="Longest wait for the first or the next piece of text.")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="More fields of each request, in place of what anytalk sets; null leaves one out.",
    )

    @field_validator("model")
    @classmethod
    def _is_plain_address(cls, model: str) -> str:
        if not is_address(model):
            raise ValueError("isn't an address; one looks like http://127.0.0.1:8000/v1")
        if "@" in urlsplit(model).netloc:
            raise ValueError("holds a password, which would be written down; name a variable in key_from instead")
        return model.rstrip("/")


class ChatBackbone(ServedBackbone):
    """Asks ``/chat/completions`` for a stream of text, once for each answer.

    All requests run in one separate thread, so that each can be cancelled at once.

    Args:
        options: The endpoint, and how it is asked.
        what: What needs the package ``openai``; it begins the error's sentence.
        extra: The extra of anytalk that installs it.

    Raises:
        ConfigError: the package openai isn't installed.
    """

    def __init__(self, options: EndpointOptions, what: str, extra: str) -> None:
        super().__init__()
        self.options = options
        self._openai = load_openai(what, extra)

    @property
    def title(self) -> str:
        return f"'{self.options.name}' at {self.options.model}"

    def answer(self, request: TextRequest) -> TextStream:
        """Send the request; the reply is put into the stream as it arrives."""
        # The lambda is only called after `future` is set.
        stream = TextStream(lambda: future.cancel())
        future = asyncio.run_coroutine_threadsafe(self._fill(stream, request), _loop())
        return stream

    def check(self) -> None:
        """Ask for one token.

        Raises:
            ConfigError: no model is named.
            ServedError: the endpoint can't be reached, or it refuses.
        """
        asyncio.run_coroutine_threadsafe(self._check(), _loop()).result()

    # ---- coroutines of the loop's thread

    async def _fill(self, stream: TextStream, request: TextRequest) -> None:
        reader, length, limit = ThoughtReader(), 0, _CHARACTERS_PER_TOKEN * request.max_tokens
        try:
            async with aclosing(self._pieces(request)) as pieces:
                async for text, thought, finish_reason in pieces:
                    words, more = reader.push(text, is_last=finish_reason is not None)
                    if thought or more:
                        stream.think(thought + more)
                    stream.put(words)
                    length += len(words)
                    if length > limit:
                        break
                    if finish_reason is not None and length:
                        # What follows is only statistics; it is read so that the connection can be reused.
                        stream.end(was_cut=finish_reason == "length")
            if not length:
                said = f"{self.title} wrote nothing"
                raise ServedError(said, "if it only thinks, switch thinking off, or allow it more tokens")
            stream.end(was_cut=True)
        except AnytalkError as error:
            stream.end(error)
        except Exception as error:  # the reader of the stream must learn of it
            stream.end(ServedError(f"asking {self.title} failed: {type(error).__name__}: {in_a_line(error)}"))

    async def _check(self) -> None:
        if self.options.name is None:
            names = ", ".join(await self._names())
            raise ConfigError(
                f"the endpoint {self.options.model} was given without the name of a model",
                f"add --model NAME; it has {names}" if names else "add --model NAME",
            )
        async for _ in self._pieces(TextRequest(messages=({"role": "user", "content": "Hello"},), max_tokens=1)):
            pass

    async def _names(self) -> list[str]:
        try:
            return [model.id async for model in self._client.models.list()]
        except Exception as error:  # the client's errors, and those of reading whatever else was sent
            self._explain(error, has_begun=False)

    async def _pieces(self, request: TextRequest) -> AsyncGenerator[tuple[str, str, str | None], None]:
        """Yield pieces of text and thoughts, the last one with its finish reason; empty pieces may follow.

        Raises:
            AnytalkError: one sentence about what went wrong.
        """
        has_begun = has_ended = False
        try:
            async with asyncio.timeout(self.options.timeout_s) as patience, await self._begin(request) as chunks:
                async for chunk in chunks:
                    text, thought, finish_reason = _read(chunk)
                    has_begun, has_ended = True, has_ended or finish_reason is not None
                    # Each piece of text starts the wait anew, so that long answers aren't cut off.
                    patience.reschedule(asyncio.get_running_loop().time() + self.options.timeout_s)
                    yield text, thought, finish_reason
        except AnytalkError:
            raise
        except Exception as error:  # of the client, of its transport, and of reading a body that isn't a stream
            self._explain(error, has_begun)
        if not has_ended:
            self._explain(EOFError(), has_begun)

    async def _begin(self, request: TextRequest) -> Any:
        """Send the request, and again after a short pause that the endpoint asks for, or after a stale connection."""
        openai = self._openai
        fields = {
            "temperature": request.temperature,
            "top_p": None if request.top_p == 1 else request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            **self.options.fields,
        }
        ask = partial(
            self._client.chat.completions.create,
            model=self.options.name or "",
            messages=list(request.messages),
            stream=True,
            extra_body={name: value for name, value in fields.items() if value is not None},
        )
        try:
            return await ask()
        except openai.APITimeoutError:  # a timeout is an APIConnectionError too, and must not be tried again
            raise
        except openai.APIConnectionError:
            pause_s = 0.0
        except openai.RateLimitError as error:
            wanted = _pause_s(error)
            if wanted is None or wanted > _LONGEST_PAUSE_S:
                raise
            pause_s = wanted
        await asyncio.sleep(pause_s)
        return await ask()

    @cached_property
    def _client(self) -> Any:
        """Make the client, which is used in the loop's thread only; ConfigError if the key is missing."""
        key = read_key(self.options.key_from, "name another in talker.yaml: backbone.options.key_from")
        return self._connect(key or _NO_KEY)

    def _connect(self, key: str, **more: Any) -> Any:
        """Make a client of the endpoint; `more` goes to the client as it is."""
        openai, options = self._openai, self.options
        timeout = openai.Timeout(options.timeout_s, connect=min(_CONNECT_S, options.timeout_s))
        # No retries by the client: `_begin` decides, because people are waiting.
        client = openai.AsyncOpenAI(base_url=options.model, api_key=key, max_retries=0, timeout=timeout, **more)
        # Connections are closed when the backbone goes, without keeping it alive.
        weakref.finalize(self, _close, client)
        return client

    # ---- errors

    def _explain(self, error: Exception, has_begun: bool) -> NoReturn:
        """Raise an error of the client as a sentence.

        Raises:
            ServedError: always, unless it already was an AnytalkError.
        """
        openai, who, url, options = self._openai, self.title, self.options.model, self.options
        if isinstance(error, AnytalkError):
            raise error
        detail, variable = self._detail(error), options.key_from or DEFAULT_KEY_VARIABLE
        said, hint = f"{who} answered with an error: {detail}", "see the endpoint's own log"
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            said = f"{who} has written nothing for {options.timeout_s:g} s"
            hint = "ask again, or allow it more: backbone.options.timeout_s in talker.yaml"
        elif has_begun and isinstance(error, EOFError | openai.APIConnectionError):
            said, hint = f"the connection to {who} was lost in the middle of the answer", "ask again"
        elif isinstance(error, openai.APIConnectionError):
            said, hint = f"{url} can't be reached: {self._detail(error.__cause__ or error)}", "is the server running?"
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            said = f"{url} refuses the key in {variable}: {detail}"
            if self._client.api_key == _NO_KEY:
                said = f"{url} needs a key, and {variable} is not set: {detail}"
            hint = f"export {variable}=..., or name another variable: attach --key-from NAME"
        elif isinstance(error, openai.NotFoundError):
            said = f"{url} has no model '{options.name}', or is not an OpenAI-compatible API: {detail}"
            hint = f"see what it has: curl {url}/models (most addresses end with /v1)"
        elif isinstance(error, openai.RateLimitError):
            pause_s = _pause_s(error)
            said = f"{who} accepts no more questions at the moment (429): {detail}"
            hint = "ask again later" if pause_s is None else f"ask again in {pause_s:g} s"
        elif isinstance(error, EOFError | ValueError):
            said = f"{who} sent something that isn't a stream of text" + (f": {detail}" if detail else "")
            hint = "is it an OpenAI-compatible API? Most addresses end with /v1"
        raise ServedError(said, hint) from None

    def _detail(self, error: BaseException) -> str:
        """Return what an error says, without the key, which some servers repeat in their messages."""
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, dict) else None
        said = in_a_line(error) if not isinstance(message, str) else " ".join(message.split())[:300]
        return said.replace(self._client.api_key, "...") if self._client.api_key != _NO_KEY else said


def _read(chunk: Any) -> tuple[str, str, str | None]:
    """Return a chunk's text, its thoughts, and why it is the last one; some servers omit fields.

    Raises:
        ValueError: it isn't a chunk of a chat completion.
    """
    choices = getattr(chunk, "choices", None)
    if not isinstance(choices, list):
        raise ValueError(f"a piece without choices: {in_a_line(ValueError(chunk))[:80]}")
    if not choices:  # usage statistics
        return "", "", None
    delta = getattr(choices[0], "delta", None)
    text, *thoughts = (getattr(delta, name, None) for name in ("content", "reasoning_content", "reasoning"))
    thought = next((found for found in thoughts if isinstance(found, str)), "")
    # Thoughts have no standard field; servers use one of these two.
    return text if isinstance(text, str) else "", thought, getattr(choices[0], "finish_reason", None)


def _pause_s(error: Any) -> float | None:
    """Return the pause in seconds that an endpoint asks for; None if it names none."""
    try:
        return float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _close(client: Any) -> None:
    """Close the connections that a client keeps open between answers."""
    asyncio.run_coroutine_threadsafe(client.close(), _loop())


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all requests, which runs in its own thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="anytalk-served", daemon=True).start()
    return loop
