"""Headless Chromium for tests of pages, driven through ChromeDriver by the WebDriver protocol (HTTP and JSON)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "headless Chromium is not here: chromium and chromedriver are needed"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Space": " ",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
}


class Browser:
    """One window of headless Chromium."""

    def __init__(self, base: str, session: str) -> None:
        self._base = f"{base}/session/{session}"

    def call(self, method: str, path: str, body=None):
        return request(method, f"{self._base}{path}", body)

    def cdp(self, command: str, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file at a width, light or dark."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.call("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments):
        """Return what a script returns in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *names: str) -> None:
        """Press and release keys, one after the other."""
        for name in names:
            key = KEYS.get(name, name)
            actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
            self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def type(self, text: str) -> None:
        self.press(*text)

    def picture(self, path: Path, full: bool = False) -> None:
        """Save what the window shows, or the whole page."""
        shot = self.cdp(
            "Page.captureScreenshot", captureBeyondViewport=full, **({"clip": self._whole()} if full else {})
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self):
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since the last call, but for data and Chromium's own."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self.call("POST", "/se/log", {"type": "performance"})
        ]
        sent = [
            entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))]

    def messages(self) -> list[str]:
        """Return what is on the console since the last call: errors, warnings, refusals of the policy."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]


def request(method: str, url: str, body=None):
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(call, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def browser():
    """Start Chromium and its driver, and end both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen(
            [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        base = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{base}/status")
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
            made = request("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
            try:
                yield Browser(base, made["sessionId"])
            finally:
                request("DELETE", f"{base}/session/{made['sessionId']}")
        finally:
            driver.terminate()
            driver.wait(20)


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            request("GET", url)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("chromedriver did not start")
