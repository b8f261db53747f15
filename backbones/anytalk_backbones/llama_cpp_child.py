"""Runs llama.cpp's server for one parent process, and ends when the parent does.

It is started as a file of its own, and imports nothing but xllamacpp. It reads one line of JSON: the GGUF file, the
numbers of tokens and threads, and the key that requests must carry. When the model is loaded it prints :data:`READY`
and the server's address.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

READY = "READY "
"""Begins the line with the address; llama.cpp's log may be mixed in."""
_PARALLEL = 4


def main() -> None:
    """Load the model and serve it until standard input ends; exit with 1 if it can't be loaded."""
    # Ctrl-C in a terminal reaches all processes of it, but only interrupts the answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.stdin.buffer.readline())
    parent = threading.Thread(target=_end_with_parent, daemon=True)
    parent.start()
    import xllamacpp

    try:
        server = xllamacpp.Server(_parameters(xllamacpp, asked))
    except Exception as error:  # its log, printed before, says why
        sys.exit(f"{type(error).__name__}: {error}")
    print(READY + server.listening_address, flush=True)
    parent.join()


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(0)


def _parameters(xllamacpp: Any, asked: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = asked["file"], {"gguf"}
    params.port, params.hostnames, params.api_keys = 0, ["127.0.0.1"], [asked["key"]]
    params.ui = params.endpoint_slots = False
    params.n_ctx = asked["context"]
    # Conversations that are answered at the same time share the memory of one context.
    params.n_parallel, params.kv_unified, params.cache_ram_mib = _PARALLEL, True, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    # Fitting a model into a GPU's memory reads its file once more.
    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    params.fit_params = any(device["type"] != cpu for device in xllamacpp.get_device_info())
    # Requests set the temperature and top_p; a sampler that nobody asked for would add to them.
    params.sampling.top_p, params.sampling.top_k, params.sampling.min_p = 1.0, 0, 0.0
    params.verbosity = 1  # errors only
    return params


if __name__ == "__main__":
    main()
