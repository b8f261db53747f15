"""The official Node clients, one over TLS: run ``npm install --prefix tests/node`` once; without it this is skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clients_lab import stock_server
from serve_lab import pcm, question, running
from talkers import make_talker

HERE = Path(__file__).resolve().parent / "node"
NEEDED = [shutil.which("node"), shutil.which("openssl"), (HERE / "node_modules" / "openai").is_dir()]


@pytest.mark.skipif(not all(NEEDED), reason="needs node, openssl and `npm install --prefix tests/node`")
def test_a_voice_turn_of_the_node_client_over_tls(tmp_path: Path) -> None:
    cert, key, sound = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "question.pcm"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", *made.split(), *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    sound.write_bytes(pcm(question()))
    # The client speaks wss only, whatever the base URL says.
    with running(make_talker(), tls_cert=cert, tls_key=key, api_key="s3cret") as server:
        done = subprocess.run(
            ["node", str(HERE / "voice_turn.mjs"), f"https://localhost:{server.port}/v1", str(sound)],
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(cert)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["types"][0] == "session.created"
    assert told["types"][-1] == "response.done"
    assert {"input_audio_buffer.speech_started", "input_audio_buffer.committed"} <= set(told["types"])
    assert told["status"] == "incomplete"
    assert told["soundBytes"] > 0
    assert told["item"]["content"][0]["transcript"]


@pytest.mark.skipif(
    not (NEEDED[0] and (HERE / "node_modules" / "@openai" / "agents-realtime").is_dir()),
    reason="needs node and `npm install --prefix tests/node`",
)
def test_the_agents_of_node_with_their_defaults(tmp_path: Path) -> None:
    sound = tmp_path / "question.pcm"
    sound.write_bytes(pcm(question()))
    with stock_server() as server:
        done = subprocess.run(
            ["node", str(HERE / "agents.mjs"), f"ws://{server.address}/v1/realtime", str(sound)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told == {"errors": [], "soundBytes": told["soundBytes"], "voice": True, "interrupted": True, "tool": True}
    assert told["soundBytes"] > 0
