"""A codec that works while the model thinks of the next column: its stream in a thread of its own."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from anytalk.plugins.contracts import CodecStream


class OverlappedStream(CodecStream):
    """Gives the same samples as the stream that it runs, each piece as soon as a later push finds it ready.

    The first sound is waited for, because nothing is as late as it is; from then on nobody waits until the end.

    Args:
        stream: A stream of its own; nobody else may use it meanwhile.
    """

    def __init__(self, stream: CodecStream) -> None:
        self._stream = stream
        self._pending: deque[Future[Tensor]] = deque()
        self._worker: ThreadPoolExecutor | None = None
        self._has_spoken = False

    def push(self, codes: Tensor) -> Tensor:
        """(1,K,t) frames -> (1,n) samples that are ready by now.

        Raises:
            AudioError: codes that don't fit, those of an earlier push included.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="codec")
        if codes.shape[-1]:
            self._pending.append(self._worker.submit(self._push, codes))
        return self._collect(wait=not self._has_spoken)

    def flush(self) -> Tensor:
        """(1,n): everything that is left. The stream is then empty and may be used again."""
        pieces = [self._collect(wait=True), self._stream.flush()]
        if self._worker is not None:
            self._worker.shutdown()
        self._worker, self._has_spoken = None, False
        return torch.cat(pieces, dim=1)

    def _push(self, codes: Tensor) -> Tensor:
        with torch.no_grad():  # which is a setting of each thread
            return self._stream.push(codes)

    def _collect(self, *, wait: bool) -> Tensor:
        pieces = [torch.zeros(1, 0)]
        while self._pending and (wait or self._pending[0].done()):
            pieces.append(self._pending.popleft().result())
        made = torch.cat([piece.to(pieces[-1].device) for piece in pieces], dim=1)
        self._has_spoken = self._has_spoken or made.shape[1] > 0
        return made
