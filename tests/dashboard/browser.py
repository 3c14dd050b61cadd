"""A headless Chromium, driven through chromedriver with WebDriver (W3C) and urllib alone."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

SIZES = {"desktop": (1360, 900, False), "phone": (390, 844, True)}

CHECKS = Path(__file__).with_name("page_checks.js").read_text(encoding="utf-8")


class Browser:
    """One window."""

    def __init__(self, profile: Path) -> None:
        self.driver = subprocess.Popen(
            [str(CHROMEDRIVER), "--port=0"], stdout=subprocess.PIPE, text=True
        )
        assert self.driver.stdout is not None
        port = None
        for line in self.driver.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                port = match.group(1)
                break
        self.base = f"http://127.0.0.1:{port}/session"
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        options += [f"--user-data-dir={profile}", "--hide-scrollbars", "--no-first-run"]
        always = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": options},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._ask("", {"capabilities": {"alwaysMatch": always}})
        self.base += f"/{session['sessionId']}"

    def close(self) -> None:
        """End the window and its driver."""
        try:
            self._ask("", method="DELETE")
        finally:
            self.driver.terminate()
            self.driver.communicate(timeout=20)

    def open(self, address: str) -> None:
        """Go to an address."""
        self._ask("/url", {"url": address})

    def js(self, script: str, *arguments: object) -> Any:
        """What a function body returns in the page."""
        return self._ask("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, what: str, seconds: float = 120.0) -> Any:
        """Ask until the page answers with something true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.js(f"return {script}")
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} did not come; console: {self.console()}")

    def devtools(self, command: str, **params: object) -> Any:
        """One command of the DevTools protocol."""
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": params})

    def view(self, width: int, height: int, scheme: str, phone: bool = False) -> None:
        """Size of the window, and what it says of the preferred colours."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def show_as(self, size: str, scheme: str) -> None:
        """One of `SIZES`, in `light` or `dark`."""
        width, height, phone = SIZES[size]
        self.view(width, height, scheme, phone)

    def check_page(self, size: str, name: str) -> None:
        """Contrast, labels and width of what is shown, and a silent console; keeps a picture."""
        found = self.js(CHECKS + "return faintText()")
        assert found["seen"] > 60
        assert not found["bad"]
        assert not self.js(CHECKS + "return faintLines()")
        assert not self.js(CHECKS + "return unlabelled()")
        assert self.js("return document.documentElement.scrollWidth") <= SIZES[size][0]
        assert not self.console()
        if folder := os.environ.get("VOXFORMER_SCREENSHOTS"):
            self.screenshot(Path(folder) / f"{name}.png")

    def text(self, selector: str) -> str:
        """Of the first element that fits."""
        script = "return document.querySelector(arguments[0])?.textContent"
        return str(self.js(script, selector))

    def press(self, *keys: str) -> None:
        """Keys by their WebDriver characters."""
        actions = [{"type": t, "value": key} for key in keys for t in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def console(self) -> list[str]:
        """Errors and warnings since the last call."""
        entries = self._ask("/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        """The whole page, not just what the window shows."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = None if method == "DELETE" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:1000]) from None
