"""The lines of docs/clients.md in a real browser: a spoken question, and an answer that sounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser_lab import CHROMIUM, browsing, write_microphone
from clients_lab import HEARD, optional, stock_server
from serve_lab import question

optional("aiortc")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "clients.md"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore"),
]
ENERGY = """peer.getStats().then((stats) => [...stats.values()].filter(({ type }) => type === "inbound-rtp")
  .map(({ totalAudioEnergy }) => totalAudioEnergy)[0] ?? 0)"""


def test_the_lines_of_the_docs(tmp_path: Path) -> None:
    found = re.search(r"## A browser, by WebRTC\n\n```js\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    microphone = write_microphone(tmp_path / "speech.wav", 2.0, question(rate_hz=48_000), 30.0)
    with stock_server(max_columns=60) as server, browsing(microphone) as page:
        lines = found[1].replace("127.0.0.1:8000", server.address)
        page.open(f"http://{server.address}/")
        page.run(
            "(async () => { document.body.append(Object.assign(document.createElement('audio'), { autoplay: true }));"
            f" const key = 'any', shown = [], show = (event) => shown.push(event);\n{lines}\n"
            " Object.assign(globalThis, { peer, shown, events }); })()"
        )
        page.wait_for("shown.some(({ type }) => type === 'session.created')")
        page.run(
            "events.send(JSON.stringify({ type: 'session.update', session: { type: 'realtime',"
            " audio: { input: { transcription: {} } } } }))"
        )
        page.wait_for("shown.some(({ type }) => type === 'output_audio_buffer.stopped')", 60)
        said = page.run("shown.filter(({ type }) => type.endsWith('transcription.completed')).map((e) => e.transcript)")
        assert said == [HEARD]
        assert page.run("shown.find(({ type }) => type === 'response.done').response.output[0].content[0].transcript")
        assert not page.run("shown.some(({ type }) => type === 'response.output_audio.delta' || type === 'error')")
        page.wait_for(f"{ENERGY}.then((energy) => energy > 1e-5)")
        page.run("peer.close()")
        server.wait_until(lambda: server.state.admission.taken == 0, 15.0)
