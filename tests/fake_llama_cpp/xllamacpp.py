"""Stands in for the package xllamacpp: its server answers what the model file holds after the header."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from endpoint_lab import Reply, endpoint, forever

ggml_backend_dev_type = IntEnum("ggml_backend_dev_type", {"GGML_BACKEND_DEVICE_TYPE_CPU": 0})


def get_device_info() -> list[dict[str, Any]]:
    return [{"type": ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU}]


class CommonParams:
    def __init__(self) -> None:
        self.model, self.sampling = SimpleNamespace(path=""), SimpleNamespace()
        self.cpuparams, self.cpuparams_batch = SimpleNamespace(), SimpleNamespace()


class Server:
    def __init__(self, params: Any) -> None:
        told = Path(params.model.path).read_bytes()[24:].decode()
        print("0.00.012.425 I srv          init: loading model", flush=True)
        if told.startswith("FAIL "):
            print(f"0.00.046.414 E {told[5:]}\n0.00.046.480 E llama_model_load: failed to load", file=sys.stderr)
            raise RuntimeError("Failed to init server, please check the input params.")
        if told == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if told == "SLOW":
            time.sleep(1000)
        self._context = endpoint()
        self._endpoint = self._context.__enter__()
        self._endpoint.script = lambda reply: self._answer(reply, params, told)
        self.listening_address = self._endpoint.url.removesuffix("/v1")

    def _answer(self, reply: Reply, params: Any, told: str) -> None:
        asked = reply.body["messages"][-1]["content"]
        if self._endpoint.keys[-1] != f"Bearer {params.api_keys[0]}":
            reply.error(401, "Invalid API Key")
        elif asked == "die":
            reply.begin()
            reply.text("I am")
            time.sleep(0.1)
            print("1.00.046.414 E ggml: a row is missing", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGABRT)
        elif asked == "forever":
            forever(reply)
        elif asked == "long":
            reply.error(400, "request (6031 tokens) exceeds the available context size (4096 tokens)")
        elif asked == "settings":
            reply.say(json.dumps({"pid": os.getpid(), "context": params.n_ctx, "threads": params.cpuparams.n_threads}))
        else:
            reply.say(told or "It is nine.")
