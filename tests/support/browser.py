"""A real headless Chromium, steered over its DevTools pipe: no driver, no library.

Commands and answers are JSON, each ended by NUL, on the file descriptors 3 and 4 of the browser's process.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_SECONDS = 30.0
CLOSE_SECONDS = 10.0
# Puts the pipes where the browser looks for them, whatever their numbers are here, and becomes the browser.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
COMPLAINTS = ("warning", "error")


def find() -> str:
    """The browser's program; the test is skipped, with the reason, on a machine that has none."""
    asked = os.environ.get("QUORUMFS_TEST_CHROMIUM")
    found = asked or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    return found


class Browser:
    """One page of one browser. `complaints`: what its console said at warning and above, and what it threw."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._home = tempfile.mkdtemp(prefix="quorumfs-browser-")
        self._number = 0
        self._answers: Queue[dict[str, Any]] = Queue()
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-ISc",
                LAUNCH,
                str(to_browser),
                str(from_browser),
                find(),
                *_options(self._home),
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._reader = threading.Thread(target=self._read, name="browser-pipe", daemon=True)
        self._reader.start()
        self._session = ""
        self._session = self._attach()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """In order, so that none of its processes is left to write into a directory that is gone."""
        self._session = ""
        try:
            self.command("Browser.close")
            self._process.wait(CLOSE_SECONDS)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE_SECONDS)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._home, ignore_errors=True)

    # Looking and doing

    def open(self, address: str) -> None:
        self.command("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        told = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What is to be read in the first element that matches; empty without one."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until(self, seen: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """The first true value of `seen`."""
        deadline = time.monotonic() + seconds
        while not (found := seen()):
            assert time.monotonic() < deadline, f"{what} was not seen; the page says:\n{self.text()[:3000]}"
            time.sleep(0.05)
        return found

    def until_text(self, *words: str, selector: str = "body", seconds: float = PATIENCE_SECONDS) -> None:
        self.until(
            lambda: all(word in self.text(selector) for word in words), f"{words} in {selector}", seconds
        )

    def press(self, key: str, code: int) -> None:
        """A key of the keyboard, such as Tab (9) or Enter (13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        self.command("Input.insertText", text=text)

    def look_as(
        self, *, width: int = 1200, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """The window's size, its colours, and whether it is a phone's."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """The whole page, as long as it is."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        told = self.command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(told["data"]))

    # The pipe

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer. Raises AssertionError when the browser refuses or is silent."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"the browser does not answer {method}") from None
            if answer["id"] == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _attach(self) -> str:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        return str(self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def _read(self) -> None:
        rest = b""
        while received := os.read(self._from, 1 << 16):
            *messages, rest = (rest + received).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", "")
                self.complaints.append(f"thrown: {details['text']} {thrown}")
            case "Runtime.consoleAPICalled" if params["type"] in COMPLAINTS:
                self.complaints.append(f"console: {[one.get('value') for one in params['args']]}")
            case "Log.entryAdded" if params["entry"]["level"] in COMPLAINTS:
                entry = params["entry"]
                self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")


def _options(home: str) -> list[str]:
    return [
        "--headless=new",
        "--remote-debugging-pipe",
        f"--user-data-dir={home}",
        "--no-sandbox",  # tests run as root in containers
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "about:blank",
    ]
