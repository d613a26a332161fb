"""Chromium without a window, spoken to over a pipe: DevTools messages as JSON, each ended by a zero byte."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
MOVED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the ends of two pipes where Chromium reads (3) and writes (4), and becomes Chromium."""

PATIENCE = 60.0
"""Seconds to wait for an answer."""


class Browser:
    """One browser with one page; `messages` holds all events since the page was opened."""

    def __init__(self, folder: Path) -> None:
        assert COMMAND
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                MOVED,
                str(theirs_in),
                str(theirs_out),
                COMMAND,
                *SWITCHES,
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb", buffering=0), os.fdopen(ours_out, "wb", buffering=0)
        self._rest, self._number, self._session = b"", 0, None
        self.messages: list[dict[str, Any]] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        (target, *_) = [one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._in.close()
        self._out.close()

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while (found := self._next()).get("id") != self._number:
            self.messages.append(found)
        assert "error" not in found, f"{method}: {found['error']}"
        return found["result"]

    def open(self, path: Path, *, scheme: str = "light", width: int = 1280, height: int = 900, media: str = "") -> None:
        """Open a file in a colour scheme and a window of that size, with scripts off, and wait until it is there."""
        self.messages.clear()
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.ask(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.ask("Emulation.setScriptExecutionDisabled", value=True)
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not self.events("Page.loadEventFired"):
            self.messages.append(self._next())

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of that kind since the page was opened."""
        return [message["params"] for message in self.messages if message.get("method") == method]

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page: the tests' own scripts run, the page's do not."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            read = self._in.read(1 << 16)
            assert read, "the browser has gone"
            assert time.monotonic() < deadline, "the browser does not answer"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
