"""A headless Chromium with a fake microphone, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile
from serve_lab import PATIENCE_S, Running, question
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

AXE = "axe-core@4.11.0"
ANSWER = "document.querySelector('.turn.answer:last-of-type .said')?.textContent"
PLAYED = "import('/app.js').then(({ app }) => app.player.playedSamples)"
PLAYS = "import('/app.js').then(({ app }) => app.player.isPlaying)"
STATE = "document.body.dataset.state"
PROBLEM = "!document.querySelector('#problem').hidden && document.querySelector('#problem-text').textContent"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
    "--use-fake-device-for-media-stream",
)


class Page:
    """A tab.

    Args:
        socket: To its DevTools.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._next = 0
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command; its result."""
        with self._changed:
            self._next += 1
            number = self._next
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._answers, PATIENCE_S), f"{method} is not answered"
            answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer.get("result", {})

    def open(self, address: str) -> None:
        """Load a page and wait until it knows who answers, or says why not."""
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && Boolean(document.querySelector('#model, body'))")

    def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = self.send("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str, patience_s: float = PATIENCE_S) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + patience_s
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} is {value!r}\n{self.describe()}"
            time.sleep(0.03)
        return value

    def describe(self) -> str:
        """What is seen, for failures."""
        types = [event["type"] for event in self.received()]
        return "\n".join([str(self.run("document.body.innerText")), *self.complaints(), *types[-12:]])

    def text(self, selector: str) -> str:
        """Text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''"))

    def click(self, selector: str) -> None:
        """Press and let go with the mouse."""
        self.mouse("mousePressed", selector)
        self.mouse("mouseReleased", selector)

    def mouse(self, kind: str, selector: str) -> None:
        """`mousePressed` or `mouseReleased` in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def release_once(self, script: str, selector: str) -> None:
        """Let the page itself release an element once an expression is true: a busy machine is slow to command it."""
        self.run(
            f"(() => {{ const release = () => {script} ? document.querySelector({json.dumps(selector)})"
            ".dispatchEvent(new PointerEvent('pointerup')) : setTimeout(release, 5); release(); })()"
        )

    def key(self, kind: str, key: str, code: str = "") -> None:
        """`keyDown` or `keyUp`."""
        text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
        self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **text)

    def type(self, selector: str, text: str) -> None:
        """Type into a field, then Enter."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.send("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        self.send("Input.dispatchKeyEvent", type="keyUp", **enter)

    def look(self, width: int = 1280, height: int = 860, scheme: str = "light", motion: str = "") -> None:
        """Size and colours; `motion` may be ``"reduce"``."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion or "no-preference"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def received(self) -> list[dict[str, Any]]:
        """Server events on the page's WebSockets."""
        return self._frames("Network.webSocketFrameReceived")

    def sent(self) -> list[dict[str, Any]]:
        """Client events on the page's WebSockets."""
        return self._frames("Network.webSocketFrameSent")

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        http = [e["params"]["request"]["url"] for e in self._of("Network.requestWillBeSent")]
        return http + [e["params"]["url"] for e in self._of("Network.webSocketCreated")]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, uncaught exceptions, refused loads."""
        found = [
            str([argument.get("value", argument.get("description")) for argument in e["params"]["args"]])
            for e in self._of("Runtime.consoleAPICalled")
            if e["params"]["type"] in ("error", "warning", "assert")
        ]
        found += [str(e["params"]["exceptionDetails"]) for e in self._of("Runtime.exceptionThrown")]
        entries = [e["params"]["entry"] for e in self._of("Log.entryAdded")]
        return found + [f"{e['text']} {e.get('url', '')}" for e in entries if e["level"] in ("error", "warning")]

    def _of(self, method: str) -> list[dict[str, Any]]:
        with self._changed:
            return [event for event in self.events if event["method"] == method]

    def _frames(self, method: str) -> list[dict[str, Any]]:
        frames = [(e["params"]["timestamp"], e["params"]["response"]) for e in self._of(method)]
        return [{**json.loads(f["payloadData"]), "at": at} for at, f in frames if f["opcode"] == 1]

    def _read(self) -> None:
        try:
            for message in self._socket:
                found = json.loads(message)
                with self._changed:
                    if "id" in found:
                        self._answers[found["id"]] = found
                    else:
                        self.events.append(found)
                    self._changed.notify_all()
        except ConnectionClosed:
            pass


@contextmanager
def browsing(microphone: Path | None = None, *options: str, allow: bool = True) -> Iterator[Page]:
    """A fresh browser with one empty tab.

    Args:
        microphone: A wav that is heard once, from the moment on when the microphone is opened; add silence as needed.
        options: More of Chromium's.
        allow: Whether the microphone is given to who asks.
    """
    assert CHROMIUM is not None
    given = [f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []
    given += ["--use-fake-ui-for-media-stream" if allow else "--deny-permission-prompts"]
    # Not pytest's folder: Chromium goes on writing for a moment after it was told to end.
    with tempfile.TemporaryDirectory(prefix="anytalk-browser-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_OPTIONS, *given, *options, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                address = _tab(Path(profile) / "DevToolsActivePort", process)
                with connect(address, max_size=None, ping_interval=None) as socket:
                    yield Page(socket)
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _tab(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        if port_file.is_file() and (lines := port_file.read_text().split()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as response:
                tabs = [tab for tab in json.load(response) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("Chromium didn't open a tab")


def write_microphone(path: Path, *parts: np.ndarray | float) -> Path:
    """A wav for the fake microphone, 48 kHz: waves at 48 kHz, and seconds of silence."""
    waves = [np.zeros(int(48_000 * part), np.float32) if isinstance(part, float) else part for part in parts]
    soundfile.write(path, np.concatenate(waves), 48_000, subtype="PCM_16")
    return path


def write_talkative(path: Path) -> Path:
    """A wav for the fake microphone in which somebody speaks without pauses for a minute and a half.

    A file is played from the moment on when the microphone is opened, and a slow machine holds a turn later than a fast
    one. Speech and not a tone: Chromium takes steady tones for noise and suppresses them.
    """
    speech = question(1, 48_000)
    return write_microphone(path, *[speech[np.flatnonzero(np.abs(speech) > 0.03)[0] :][:72_000]] * 60)


def open_page(page: Page, server: Running, host: str = "127.0.0.1") -> None:
    """Open the page anew."""
    page.open("about:blank")
    page.events.clear()
    page.look()
    page.open(f"http://{host}:{server.port}/")


def wait_ready(page: Page) -> None:
    """Until the server has told the page who talks."""
    page.wait_for("document.querySelector('#model').textContent")


def sent(page: Page, *names: str) -> list[dict[str, Any]]:
    """Events of these names that the page sent."""
    return [event for event in page.sent() if event["type"] in names]


def received(page: Page, *names: str) -> list[dict[str, Any]]:
    """Events of these names that it was told."""
    return [event for event in page.received() if event["type"] in names]


def until_received(page: Page, name: str, count: int = 1, patience_s: float = 20.0) -> dict[str, Any]:
    """Wait for so many events of a name; the last of them."""
    end = time.monotonic() + patience_s
    while len(found := received(page, name)) < count:
        assert time.monotonic() < end, f"no {name}\n{page.describe()}"
        time.sleep(0.02)
    return found[count - 1]


def axe_source(folder: Path) -> str:
    """The source of axe-core, fetched by npm into `folder` once."""
    if not (kept := folder / f"{AXE}.js").is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm here, which fetches axe-core")
        command = [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            pytest.skip(f"axe-core can't be fetched: {done.stderr[-200:]}")
        with tarfile.open(folder / Path(done.stdout.strip()).name) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            kept.write_bytes(source.read())
    return kept.read_text(encoding="utf-8")
