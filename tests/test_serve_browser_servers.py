"""The web page where its server has a key, is full, goes away, or has no ears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from browser_lab import (
    CHROMIUM,
    PROBLEM,
    STATE,
    Page,
    browsing,
    open_page,
    until_received,
    wait_ready,
    write_microphone,
    write_talkative,
)
from serve_lab import question, running
from talkers import make_talker
from torch import Tensor

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Ears, Heard

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    file = tmp_path_factory.mktemp("microphone") / "speech.wav"
    with browsing(write_microphone(file, 0.3, question(1, 48_000), 30.0)) as page:
        yield page


def test_a_server_with_a_key(browser: Page) -> None:
    with running(make_talker(), api_key="correct-horse", max_columns=8) as locked:
        open_page(browser, locked)
        browser.wait_for("document.querySelector('#key-dialog').open")
        browser.type("#key", "wrong")
        browser.wait_for("document.querySelector('#key-problem').textContent.includes('not the server')")
        browser.run("document.querySelector('#key').value = ''")
        browser.type("#key", "correct-horse")
        wait_ready(browser)
        browser.type("#text", "Hello!")
        until_received(browser, "response.done")
        # A browser's WebSocket carries no other words than these.
        browser.run("import('/app.js').then(({ app }) => { app.conversation.end(); app.key = 'a/b=c'; })")
        browser.type("#text", "Hello!")
        browser.wait_for("document.querySelector('#key-problem').textContent.includes(\"can't send\")")
        browser.run("sessionStorage.clear()")
        browser.open("about:blank")


def test_a_full_server_and_a_lost_one(browser: Page) -> None:
    with running(make_talker(), max_sessions=1, max_columns=8) as small:
        open_page(browser, small)
        wait_ready(browser)
        with small.state.admission.place():
            browser.type("#text", "Hello!")
            assert "All places" in browser.wait_for(PROBLEM)
        assert browser.run("document.querySelector('#text').value") == "Hello!"
        browser.click("#problem-action")
        browser.wait_for(f"{STATE} === 'ready'")
        browser.type("#text", "")
        until_received(browser, "response.done")
    assert "shutting down" in browser.wait_for(PROBLEM)
    assert "end of this conversation" in browser.text("#turns")
    browser.click("#problem-action")
    browser.wait_for(f"({PROBLEM} || '').includes('answer')")
    browser.open("about:blank")


class Piecewise(Ears):
    """Hears a second at a time, and is certain of each."""

    @classmethod
    def build(cls, options: object, context: BuildContext) -> Piecewise:
        return cls()

    @property
    def sample_rate_hz(self) -> int:
        return 16_000

    def first_cut(self, wave: Tensor) -> int:
        return 16_000 if len(wave) > 16_000 else 0

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        return [Heard(text=f"{len(wave)} samples") for wave in waves]


def test_words_are_shown_while_they_are_spoken(tmp_path: Path) -> None:
    talker = make_talker()
    talker.model.ears = Piecewise()
    with running(talker, max_columns=8) as server, browsing(write_talkative(tmp_path / "talk.wav")) as page:
        open_page(page, server)
        wait_ready(page)
        page.click("#talk")
        words = "document.querySelector('.turn.user .words')?.textContent ?? ''"
        page.wait_for(f"({words}).startsWith('16000 samples 16000')")
        assert page.run(STATE) == "listening"
        assert page.run("document.querySelectorAll('.turn.user .words').length") == 1
        page.click("#talk")
        assert page.run("document.querySelectorAll('.turn.user').length") == 0, "what was not said is not shown"


def test_a_talker_without_ears(browser: Page) -> None:
    with running(make_talker(ears=False), max_columns=8) as deaf:
        open_page(browser, deaf)
        wait_ready(browser)
        browser.wait_for("document.querySelector('#talk').disabled")
        assert "doesn't hear" in browser.text("#hint")
        browser.type("#text", "Hello!")
        until_received(browser, "response.done")
        browser.open("about:blank")
