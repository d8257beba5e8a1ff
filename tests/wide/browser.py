"""A real browser without a window: what a page asks for, and whether it fits a screen.

Chromium is no Python package: it is found on the path (Debian: apt install chromium), or absent. It
is spoken to over a pipe, by the DevTools protocol, which can also make it a phone.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip

LONGEST_SECONDS = 600.0

MEASURE = """JSON.stringify({
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    cut: [...document.querySelectorAll('body *')].filter(
        e => !e.closest('.scrolls') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.outerHTML.slice(0, 80))
})"""


def program() -> str | None:
    """Where the browser is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True, slots=True)
class Seen:
    """A page as it is on a screen: in CSS pixels. `requests` are addresses beside its own, `said`
    are lines of the console, `cut` is what goes beyond the right edge."""

    inner_width: int
    scroll_width: int
    paper: str
    requests: list[str]
    said: list[str]
    cut: list[str]
    picture: bytes


class Browser:
    """One process, one page after another."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._tell(f"{domain}.enable")

    def look(self, page: Path, *, width: int, scheme: str = "light") -> Seen:
        """Open a page on a screen of this width, `light` or `dark`."""
        self._tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._tell("Emulation.setEmulatedMedia", features=[feature])
        self._events.clear()
        self._tell("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()
        answer = self._tell("Runtime.evaluate", expression=MEASURE)["result"]["value"]
        found = json.loads(answer)
        picture = self._tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return Seen(
            found["inner"],
            found["scroll"],
            found["paper"],
            [url for url in self._requested() if url != page.resolve().as_uri()],
            [json.dumps(event["params"]) for event in self._events if _is_said(event)],
            found["cut"],
            base64.b64decode(picture),
        )

    def _requested(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]

    def _tell(self, method: str, **values: Any) -> dict[str, Any]:
        return self._call(method, self._session, **values)

    def _call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values}
        if session is not None:
            message["sessionId"] = session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        assert self._process.stdout is not None
        received = bytearray()
        while (byte := self._process.stdout.read(1)) != b"\0":
            assert byte, f"the browser ended: {self._process.poll()}"
            received += byte
        message: dict[str, Any] = json.loads(received)
        if "method" in message:
            self._events.append(message)
        return message


def _is_said(event: dict[str, Any]) -> bool:
    return event["method"] in (
        "Log.entryAdded",
        "Runtime.consoleAPICalled",
        "Runtime.exceptionThrown",
    )


@contextmanager
def opened(where: str) -> Iterator[Browser]:
    """A browser with nothing of anybody's in it, which is killed if it does not answer."""
    # Descriptors 3 and 4 are the pipe.
    command = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null', where, *QUIET]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        end = threading.Timer(LONGEST_SECONDS, process.kill)
        end.start()
        try:
            yield Browser(process)
        finally:
            end.cancel()
            process.kill()
            process.communicate()
