"""Runs a GGUF file in llama.cpp itself, in a child process, and takes its text: any model that llama.cpp can load."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from pydantic import Field

from anytalk import plugins
from anytalk.errors import ServedError, WeightsError
from anytalk.plugins import BuildContext
from anytalk.plugins.contracts import TextRequest
from anytalk.plugins.gguf_header import read_header
from anytalk.plugins.licences import spdx
from anytalk.plugins.optional import require
from anytalk.plugins.sources import PACKAGE_PREFIX, ModelSource, resolve
from anytalk_backbones.chat_completions import ChatBackbone, EndpointOptions
from anytalk_backbones.llama_cpp_process import LlamaProcess

_SAMPLES, _SAMPLE_BYTES = 16, 4096


class LlamaCppBackbone(ChatBackbone):
    """Asks llama.cpp's own server, which runs on this machine for this backbone alone.

    The process starts to load when the backbone is built, beside the other parts. If it ends by itself, the next
    question starts it again.

    Args:
        options: The part's own options.
        source: The GGUF file.

    Raises:
        ConfigError: a package is missing.
        WeightsError: the process can't be started.
    """

    class Options(plugins.Options):
        """Names the file and says how llama.cpp runs it."""

        weight_sources = ("model",)

        model: str = Field(description="GGUF file: a path, or package:NAME/PATH.")
        context: int = Field(
            4096,
            ge=256,
            description="Tokens of prompt and answer; conversations that are answered at the same time share them.",
        )
        threads: int | None = Field(None, ge=1, description="CPU threads; null: as many as torch uses.")
        timeout_s: float = Field(60.0, gt=0, description="Longest wait for the first or the next piece of text.")
        fields: dict[str, Any] = Field(
            default_factory=dict,
            description="More fields of each request to llama.cpp's /v1/chat/completions; null leaves one out.",
        )

    def __init__(self, options: LlamaCppBackbone.Options, source: ModelSource) -> None:
        require("the backbone 'llama-cpp'", "llama-cpp", "xllamacpp")
        name = source.spec if source.spec.startswith(PACKAGE_PREFIX) else Path(source.spec).name
        # The address isn't known yet, and is another one each time the process starts.
        asked = EndpointOptions(model="http://127.0.0.1", name=name, timeout_s=options.timeout_s, fields=options.fields)
        super().__init__(asked, "the backbone 'llama-cpp'", "llama-cpp")
        self.licence = spdx(str(read_header(source.paths[0]).get("general.license", "unknown")))
        # A talker remembers what it was attached to by its backbone's tensors.
        self.register_buffer("file_digest", _digest(source))
        self._source = source
        self._context = options.context
        self._threads = options.threads or torch.get_num_threads()
        self._process = self._start()
        self._was_awaited = False

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the backbone; the process starts to load the file, but nothing waits for it yet.

        Raises:
            ConfigError: the package xllamacpp or openai isn't installed.
            WeightsError: the file is missing, or isn't a GGUF file.
        """
        source = resolve(options.model, context.folder)
        if source.is_hub or source.paths[0].is_dir():
            raise WeightsError(f"'{source.spec}' is not a .gguf file", "llama.cpp runs .gguf files: give one's path")
        return cls(options, source)

    @property
    def title(self) -> str:
        return f"'{self.options.name}' in llama.cpp on this machine"

    def _start(self) -> LlamaProcess:
        return LlamaProcess(self._source, self._context, self._threads)

    # ---- coroutines of the loop's thread

    async def _pieces(self, request: TextRequest) -> AsyncGenerator[tuple[str, str, str | None], None]:
        await self._be_connected()
        async with aclosing(super()._pieces(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def _be_connected(self) -> None:
        """Start the process if it has ended, wait until the model is loaded, and make a client for it.

        Raises:
            AnytalkError: it can't be started, or can't load the model.
        """
        if self._was_awaited and self._process.has_ended():
            self._process, self._was_awaited = self._start(), False
        process = self._process
        try:
            address = await asyncio.wrap_future(process.address)
            if not self._was_awaited:
                self.options = self.options.model_copy(update={"model": f"{address}/v1"})
                # A proxy that the environment names isn't for this machine.
                direct = self._openai.DefaultAsyncHttpxClient(trust_env=False)
                self._client = self._connect(process.key, http_client=direct)
        finally:
            # If it couldn't load, every question tries once: there may be more memory then.
            self._was_awaited = True

    # ---- errors

    def _explain(self, error: Exception, has_begun: bool) -> NoReturn:
        openai = self._openai
        if isinstance(error, EOFError | openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            lost = self._process.why_lost()
            if lost is not None:
                raise lost from None
        if isinstance(error, openai.BadRequestError) and "context size" in str(error):
            raise ServedError(
                f"{self.title} can't read a conversation this long: {self._detail(error)}",
                "begin a new one, or raise backbone.options.context in talker.yaml",
            ) from None
        super()._explain(error, has_begun)


def _digest(source: ModelSource) -> torch.Tensor:
    """Return a digest of the file's size and of samples of it, (32,) uint8: quick, however large the file is.

    Raises:
        WeightsError: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        for path in source.paths:
            size = path.stat().st_size
            digest.update(f"{size} ".encode())
            with path.open("rb") as file:
                for number in range(_SAMPLES):
                    # The last sample is the end of the file: files of one shape differ in their weights only.
                    file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise WeightsError(f"'{source.spec}' can't be read: {error}", "check the path and its permissions") from None
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
