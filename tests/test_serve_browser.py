"""The web page in a real browser: speaking, typing, push-to-talk, speaking over an answer, and what goes wrong."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_lab import (
    ANSWER,
    CHROMIUM,
    PLAYED,
    PLAYS,
    PROBLEM,
    STATE,
    Page,
    axe_source,
    browsing,
    open_page,
    received,
    sent,
    until_received,
    wait_ready,
    write_microphone,
    write_talkative,
)
from serve_lab import Running, question, running, slow_down
from talkers import make_talker

INK = """[...document.querySelectorAll('.lane canvas')].map((canvas) => canvas.getContext('2d')
  .getImageData(0, 0, canvas.width, canvas.height).data.filter((value, at) => at % 4 === 3 && value > 64).length)"""
LEVEL = "Number(document.querySelector('#{}-lane .level').style.transform.match(/[0-9.]+/)?.[0] ?? 0)"

MISSING = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
pytestmark = [MISSING, pytest.mark.serial]  # turns are spoken in real time


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Its answers last eight seconds and are made a little faster than they are played."""
    with running(make_talker(speakers=("anna", "bob")), max_columns=400) as found:
        slow_down(found, 0.01)
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Its user asks, waits a little, and speaks over the answer."""
    speech = question(1, 48_000)
    file = tmp_path_factory.mktemp("microphone") / "speech.wav"
    with browsing(write_microphone(file, 0.3, speech, 2.0, question(2, 48_000), 30.0)) as page:
        yield page


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Its user never pauses."""
    with browsing(write_talkative(tmp_path_factory.mktemp("microphone") / "speech.wav")) as page:
        yield page


@pytest.fixture
def page(request: pytest.FixtureRequest, server: Running) -> Iterator[Page]:
    """The page, just opened; it must not have complained of anything in the end, nor have asked anybody else."""
    browser: Page = request.getfixturevalue(getattr(request, "param", "browser"))
    open_page(browser, server)
    yield browser
    assert browser.complaints() == []
    home = (f"http://{server.address}/", f"ws://{server.address}/", "data:", "blob:")
    assert [address for address in browser.requests() if not address.startswith(home)] == []
    browser.open("about:blank")
    server.wait_until(lambda: server.state.admission.taken == 0)


@pytest.fixture(scope="module")
def pictures(pytestconfig: pytest.Config) -> Path:
    """Where the last run's pictures of the page are kept, to be looked at."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("pictures-of-the-page")


def test_the_page_opens_and_names_the_talker(page: Page, server: Running) -> None:
    wait_ready(page)
    assert page.text("#model") == "tiny"
    assert page.run("document.title") == "tiny – anytalk"
    assert page.text("#status-text") == "Ready"
    # Nobody's place is taken before somebody says something.
    assert server.state.admission.taken == 0
    page.click("#theme")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.open(f"http://{server.address}/")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")
    assert page.run("document.documentElement.dataset.theme") == "light"
    page.run("localStorage.clear()")


def test_a_hands_free_turn_and_speaking_over_the_answer(page: Page, pictures: Path) -> None:
    wait_ready(page)
    assert page.run(INK) == [0, 0]
    page.click("#talk")
    started = until_received(page, "input_audio_buffer.speech_started")
    page.wait_for(f"{LEVEL.format('user')} > 0.1")
    stopped = until_received(page, "input_audio_buffer.speech_stopped")
    length_ms = len(question()) / 24 - 1500
    assert stopped["audio_end_ms"] - started["audio_start_ms"] == pytest.approx(length_ms + 300 + 500, abs=400)
    page.wait_for(f"({ANSWER})?.length > 3")
    page.wait_for(f"{PLAYED}.then(samples => samples > 4800)")
    assert page.run(STATE) == "speaking"
    page.wait_for(f"{LEVEL.format('answer')} > 0.1")
    # Both sides are drawn: the question as it was spoken, the answer as it is played.
    assert min(page.run(INK)) > 1000
    assert page.run("document.querySelector('.turn.user .waveform').getAttribute('role')") == "img"
    assert "first sound" in page.text(".turn.answer .figures")
    # The second question comes while the answer is spoken.
    interrupted = until_received(page, "input_audio_buffer.speech_started", 2)
    page.wait_for(f"{PLAYS}.then(plays => !plays)")
    until_received(page, "conversation.item.truncated")
    (truncate,) = sent(page, "conversation.item.truncate")
    assert truncate["at"] - interrupted["at"] < 0.3
    played = page.run(PLAYED)
    assert truncate["item_id"] == received(page, "response.output_item.added")[0]["item"]["id"]
    # What was heard is what was played, less what is still on its way through the system.
    assert 0 <= played / 24 - truncate["audio_end_ms"] < 200
    time.sleep(0.4)
    assert page.run(PLAYED) == played
    assert "interrupted after" in page.text(".turn.answer .figures")
    page.wait_for("Boolean(document.querySelector('.turn.answer .unheard'))")
    page.picture(pictures / "spoken-over.png")
    # And is answered in its turn.
    until_received(page, "response.created", 2)
    page.wait_for(f"{PLAYED}.then(samples => samples > {played})")
    # The sound came as it was spoken: no errors, nothing asked twice.
    assert received(page, "error") == []
    page.click("#talk")
    assert page.run("document.body.dataset.listening") == "false"


def test_a_typed_turn_in_another_voice(page: Page) -> None:
    wait_ready(page)
    page.click("#open-settings")
    page.run("document.querySelector('#voice').value = 'bob'")
    page.click("#settings .main")
    page.type("#text", "Hello there!")
    assert until_received(page, "session.updated")["session"]["audio"]["output"]["voice"] == "bob"
    page.wait_for("document.querySelector('.turn.user .said')?.textContent === 'Hello there!'")
    page.wait_for(f"({ANSWER})?.length > 3")
    page.wait_for(f"{PLAYED}.then(samples => samples > 2400)")
    assert page.run("document.querySelector('#text').value") == ""
    # Escape stops it, on both sides.
    page.key("keyDown", "Escape")
    page.key("keyUp", "Escape")
    done = until_received(page, "response.done")
    assert done["response"]["status"] == "cancelled"
    until_received(page, "conversation.item.truncated")
    assert page.wait_for(f"{STATE} === 'ready'")
    played = page.run(PLAYED)
    time.sleep(0.3)
    assert page.run(PLAYED) == played
    # Answers in text only.
    page.click("#open-settings")
    page.click("#speaks")
    page.click("#settings .main")
    page.type("#text", "And now in writing")
    until_received(page, "response.output_text.delta")
    page.key("keyDown", "Escape")
    until_received(page, "response.done", 2)
    assert page.run(PLAYED) == played


def test_an_answer_is_played_to_its_end(browser: Page) -> None:
    with running(make_talker(), max_columns=50) as brief:
        open_page(browser, brief)
        wait_ready(browser)
        browser.type("#text", "Hello!")
        until_received(browser, "response.done")
        browser.wait_for(f"{PLAYS}.then(plays => !plays)")
        sounds = [base64.b64decode(event["delta"]) for event in received(browser, "response.output_audio.delta")]
        assert browser.run(PLAYED) == sum(map(len, sounds)) // 2 > 0
        figures = browser.text(".turn.answer .figures")
        assert "real-time factor" in figures
        assert "longest length" in figures
        assert browser.text("#announcer").startswith("tiny: ")
        assert sent(browser, "conversation.item.truncate", "response.cancel") == []
        browser.open("about:blank")


@pytest.mark.parametrize("page", ["talkative"], indirect=True)
def test_push_to_talk(page: Page) -> None:
    wait_ready(page)
    page.click("input[value=hold]")
    # A slip of the finger is no turn; the first press also asks for the microphone.
    page.click("#talk")
    page.wait_for("import('/app.js').then(({ app }) => app.conversation.state !== 'closed')")
    page.release_once(f"{STATE} === 'listening'", "#talk")
    page.mouse("mousePressed", "#talk")
    assert "Hold the button" in page.wait_for(PROBLEM)
    page.mouse("mouseReleased", "#talk")
    assert sent(page, "response.create") == []
    assert until_received(page, "session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    page.mouse("mousePressed", "#talk")
    page.wait_for(f"{STATE} === 'listening'")
    page.wait_for(f"{LEVEL.format('user')} > 0.1")
    time.sleep(1.0)
    page.mouse("mouseReleased", "#talk")
    until_received(page, "input_audio_buffer.committed")
    page.wait_for("Boolean(document.querySelector('.turn.user .waveform'))")
    page.wait_for(f"{PLAYED}.then(samples => samples > 2400)")
    assert page.run(PROBLEM) is False
    # Space does the same, and stops the answer first.
    page.run("document.querySelector('#turns').focus()")
    page.key("keyDown", " ", "Space")
    page.wait_for(f"{STATE} === 'listening'")
    assert until_received(page, "response.done")["response"]["status_details"]["reason"] == "client_cancelled"
    until_received(page, "conversation.item.truncated")
    page.wait_for(f"{LEVEL.format('user')} > 0.1")
    time.sleep(1.0)
    page.key("keyUp", " ", "Space")
    until_received(page, "response.created", 2)
    names = [event["type"] for event in page.sent() if "append" not in event["type"]]
    assert names[-2:] == ["input_audio_buffer.commit", "response.create"]
    assert received(page, "error", "input_audio_buffer.speech_started") == []


@pytest.mark.parametrize("page", ["talkative"], indirect=True)
def test_a_turn_without_holding(page: Page) -> None:
    """Enter and screen readers click: the first click begins a turn, the second one ends it."""
    wait_ready(page)
    page.click("input[value=hold]")
    page.run("document.querySelector('#talk').click()")
    page.wait_for(f"{STATE} === 'listening'")
    page.wait_for(f"{LEVEL.format('user')} > 0.1")
    time.sleep(1.0)
    page.run("document.querySelector('#talk').click()")
    until_received(page, "response.created")
    assert page.run("document.querySelector('#talk').getAttribute('aria-pressed')") == "false"


def test_a_microphone_that_is_missing_or_goes(page: Page) -> None:
    wait_ready(page)
    page.run("""
      window.ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); };
    """)
    page.click("#talk")
    assert "No microphone" in page.wait_for(PROBLEM)
    page.run("navigator.mediaDevices.getUserMedia = window.ask; 0")
    page.click("#talk")
    page.wait_for("document.body.dataset.listening === 'true'")
    page.run("""import('/app.js').then(({ app }) => {
      const [track] = app.microphone.stream.getAudioTracks();
      const { echoCancellation, noiseSuppression, autoGainControl } = track.getSettings();
      window.cleaned = echoCancellation && noiseSuppression && autoGainControl;
      track.dispatchEvent(new Event('ended'));
    })""")
    assert page.run("window.cleaned")
    page.wait_for(f"({PROBLEM} || '').includes('disconnected')")
    assert page.run("document.body.dataset.listening") == "false"


def test_no_permission_for_the_microphone(server: Running) -> None:
    with browsing(allow=False) as page:
        open_page(page, server)
        wait_ready(page)
        page.click("#talk")
        assert "not allowed" in page.wait_for(PROBLEM)
        assert page.run("document.body.dataset.listening") == "false"
        page.click("#problem-close")
        assert page.run(PROBLEM) is False


def test_a_page_that_is_neither_local_nor_https() -> None:
    with (
        running(make_talker(), api_key="secret", max_columns=8) as far,
        browsing(None, "--host-resolver-rules=MAP anytalk.test 127.0.0.1") as page,
    ):
        open_page(page, far, "anytalk.test")
        page.wait_for("document.querySelector('#key-dialog').open")
        page.type("#key", "secret")
        wait_ready(page)
        assert page.run("isSecureContext") is False
        page.click("#talk")
        assert "https" in page.wait_for(PROBLEM)
        # Typing works, and answers are heard without worklets.
        page.type("#text", "Hello!")
        page.wait_for(f"{PLAYED}.then(samples => samples > 1000)")


def test_nothing_moves_for_who_wants_it_so(page: Page, server: Running) -> None:
    page.look(390, 844, motion="reduce")
    page.open(f"http://{server.address}/")
    wait_ready(page)
    page.type("#text", "Hello!")
    page.wait_for(f"{PLAYED}.then(samples => samples > 2400)")
    assert page.run("document.getAnimations().length") == 0
    # On a phone nothing is wider than the screen.
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_sound_is_resampled_without_seams(page: Page) -> None:
    found = page.run("""(async () => {
      const { Resampler } = await import('/resampler.js');
      const { encode, decode } = await import('/pcm.js');
      const results = {};
      for (const rate of [44100, 48000, 16000]) {
        const tone = Float32Array.from({ length: rate }, (_, n) => 0.5 * Math.sin(2 * Math.PI * 440 * n / rate));
        const high = Float32Array.from({ length: rate }, (_, n) => 0.5 * Math.sin(2 * Math.PI * 15000 * n / rate));
        const whole = new Resampler(rate, 24000).push(tone);
        const resampler = new Resampler(rate, 24000);
        const pieces = [];
        for (let at = 0; at < tone.length; at += 313) pieces.push(...resampler.push(tone.subarray(at, at + 313)));
        const error = Math.max(...whole.slice(500, 20000).map((v, n) =>
          Math.abs(v - 0.5 * Math.sin(2 * Math.PI * 440 * (n + 500) / 24000))));
        const folded = rate > 30000 ? Math.max(...new Resampler(rate, 24000).push(high).slice(500).map(Math.abs)) : 0;
        const isSame = pieces.length === whole.length && pieces.every((v, n) => v === whole[n]);
        results[rate] = { error, folded, isSame, length: whole.length + resampler.flush().length };
      }
      const wave = Float32Array.from([0, 0.5, -0.5, 2, -2]);
      results.coded = Array.from(decode(encode(wave)));
      return results;
    })()""")
    for rate in ("44100", "48000", "16000"):
        assert found[rate]["isSame"]
        assert found[rate]["error"] < 2e-3
        assert found[rate]["folded"] < 5e-3
        assert abs(found[rate]["length"] - 24_000) < 30
    assert found["coded"] == pytest.approx([0, 0.5, -0.5, 1, -1], abs=1e-4)


def test_the_queue_counts_every_sample(page: Page) -> None:
    reports = page.run("""(async () => {
      const { PlaybackQueue } = await import('/playback-worklet.js');
      const reports = [], output = new Float32Array(128);
      const queue = new PlaybackQueue(24000, (report) => reports.push(report));
      const sums = [];
      const play = (times) => {
        let sum = 0;
        for (; times; times--) {
          queue.fill(output);
          sum = output.reduce((a, b) => a + b, sum);
        }
        sums.push(sum);
      };
      queue.push('a', new Float32Array(1000).fill(1));
      play(100);  // too little to begin
      queue.end('a');
      play(100);  // all there is
      queue.push('b', new Float32Array(5000).fill(1));
      queue.push('c', new Float32Array(5000).fill(1));
      play(10);
      queue.stop();
      play(10);
      return { sums, ends: reports.filter(({ type }) => type !== 'played') };
    })()""")
    assert reports["sums"] == [0, 1000, 1280, 0]
    assert reports["ends"] == [
        {"type": "started", "item": "a", "samples": 0},
        {"type": "ended", "item": "a", "samples": 1000},
        {"type": "started", "item": "b", "samples": 0},
        {"type": "stopped", "item": "b", "samples": 1280},
    ]


@pytest.fixture(scope="module")
def axe(pytestconfig: pytest.Config) -> str:
    """The source of axe-core, fetched once."""
    assert pytestconfig.cache is not None
    return axe_source(pytestconfig.cache.mkdir("axe-core"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(page: Page, server: Running, axe: str, scheme: str, pictures: Path) -> None:
    page.look(scheme=scheme)
    page.open(f"http://{server.address}/")
    wait_ready(page)
    assert page.run("document.documentElement.dataset.theme") == scheme

    def check(width: int) -> None:
        page.look(width, 860, scheme)
        page.run(axe + "; 0")
        found = json.loads(page.run("axe.run().then(({ violations }) => JSON.stringify(violations))"))
        bad = [(v["id"], v["impact"], v["help"], [n["html"] for n in v["nodes"]]) for v in found]
        assert [one for one in bad if one[1] in ("serious", "critical")] == []
        assert bad == []

    check(1280)
    page.type("#text", "Hello!")
    page.wait_for(f"{PLAYED}.then(samples => samples > 2400)")
    page.key("keyDown", "Escape")
    page.wait_for("Boolean(document.querySelector('.turn.answer .unheard'))")
    page.run("import('/app.js').then(async ({ app }) => app.tell(new (await import('/problems.js')).Problem('lost')))")
    check(1280)
    page.picture(pictures / f"{scheme}.png")
    check(390)
    page.picture(pictures / f"{scheme}-narrow.png")
    page.click("#open-settings")
    check(1280)
