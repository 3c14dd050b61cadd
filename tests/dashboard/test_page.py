"""The page in a browser, over a run that grows: what is seen, by whom, and by which means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .browser import CHROMEDRIVER, CHROMIUM, SIZES, Browser
from .conftest import make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium, chromium-driver"),
]


class Writer(threading.Thread):
    """Appends rows as a run does, each in two writes, until it is told to stop."""

    def __init__(self, folder: Path, rows: tuple[Callable[..., str], ...]) -> None:
        super().__init__(daemon=True)
        self.folder, self.rows, self.done = folder, rows, threading.Event()

    def run(self) -> None:
        train_row, valid_row = self.rows
        with (self.folder / "metrics.jsonl").open("ab", buffering=0) as file:
            for step in range(210, 10000, 10):
                line = train_row(step, loss=None if step % 70 == 0 else 50.0 / step).encode()
                file.write(line[:30])
                if self.done.wait(0.25):
                    return
                file.write(line[30:])
                if step % 100 == 0:
                    file.write(valid_row(step, 60.0 / step).encode())


def test_growing_run_is_seen_as_it_grows(
    browser: Browser,
    serve: Callable[..., str],
    run_folder: Path,
    rows: tuple[Callable[..., str], ...],
) -> None:
    browser.view(1360, 900, "light")
    browser.open(serve(run_folder))
    browser.wait("document.querySelectorAll('.uplot canvas').length >= 7", "charts")
    assert browser.text("#connection") == "Live"
    said = "document.querySelector('#chart-loss .plot').ariaLabel"
    first, first_card = browser.js(f"return {said}"), browser.text("#run-0")
    assert "step 10 to 200" in first
    writer = Writer(run_folder, rows)
    writer.start()
    try:
        browser.wait(f"!{said}.includes('to 200;')", "a newer loss")
        browser.wait("document.title.match(/2[1-9] %|[3-9]\\d %/)", "progress in the title")
        assert browser.text("#run-0") != first_card
        browser.wait("document.querySelector('#run-0 .wers').textContent.match(/20.0 %/)", "WER")
    finally:
        writer.done.set()
        writer.join()
    with (run_folder / "training.log").open("a") as log:
        log.write("2026-11-24 10:10:00,000 INFO <b>saved</b>\n")
    browser.wait("document.querySelector('#log').textContent.includes('<b>saved</b>')", "the log")
    finding = "document.querySelector('#watch li').textContent"
    assert "critical: critical, attention" in browser.js(f"return {finding}")
    assert "hypotheses <i>critical</i>: decode" in browser.js(f"return {finding}")
    browser.js("document.querySelector('#verify-step_100\\\\.pt').click()")
    browser.wait("document.querySelector('#checkpoints').textContent.includes('verified')", "hash")
    browser.js(
        "const m = document.querySelector('#mode'); m.value = 'ctc_greedy'; "
        "m.dispatchEvent(new Event('change'))"
    )
    browser.wait("document.querySelector('#samples del')?.textContent === 'on'", "differences")
    played = "document.querySelector('#samples audio').readyState >= 1"
    browser.js(
        "document.querySelector('#samples audio').load(); "
        "document.querySelector('#samples audio').preload = 'metadata'"
    )
    browser.wait(played, "the recording")
    assert not browser.console()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page_is_legible_and_labelled_in_both_themes(
    browser: Browser, serve: Callable[..., str], tmp_path: Path, scheme: str, size: str
) -> None:
    browser.show_as(size, scheme)
    browser.open(serve(make_run(tmp_path / "one"), make_run(tmp_path / "two")))
    browser.wait("document.querySelectorAll('.uplot canvas').length >= 7", "charts")
    browser.wait("document.querySelector('#samples audio')", "samples")
    browser.check_page(size, f"{size}-{scheme}")


def test_keyboard_reaches_charts_and_theme(
    browser: Browser, serve: Callable[..., str], run_folder: Path
) -> None:
    browser.view(1360, 900, "light")
    browser.open(serve(run_folder))
    browser.wait("document.querySelectorAll('.uplot canvas').length >= 7", "charts")
    browser.js("document.querySelector('#chart-loss .plot').focus()")
    browser.press("\ue011", "\ue014")  # Home, right arrow
    spoken = "document.querySelector('#chart-loss [role=status]').textContent"
    browser.wait(f"{spoken}.startsWith('Step 20:')", "a value")
    browser.js("document.querySelector('#theme').focus()")
    browser.press("\ue007", "\ue007")  # Enter
    assert browser.text("#theme") == "Theme: dark"
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    browser.press("\ue007")
    browser.js(
        "document.querySelector('#from').value = '50'; document.querySelector('#from').focus()"
    )
    browser.press("\ue007")
    said = "document.querySelector('#chart-loss .plot').ariaLabel"
    browser.wait(f"{said}.includes('step 50 to 200')", "the range")
    browser.js("document.querySelector('#chart-loss .legend button').focus()")
    browser.press(" ")
    pressed = "document.querySelector('#chart-loss .legend button').ariaPressed"
    assert browser.js(f"return {pressed}") == "false"
    assert not browser.console()
