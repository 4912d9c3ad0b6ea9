"""A headless Chromium, spoken to over a pipe: what a page looks like, and what it says of itself.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
"""Without an answer for so long, something is wrong: a page of a report is shown within seconds."""


class Browser:
    """A page of a browser that was started for it.

    Attributes:
        told: what the page wrote to its console, and each address that it asked for.
    """

    def __init__(self, asked: int, answered: int) -> None:
        self.asked, self.answered = asked, answered
        self.number, self.session, self.held = 0, "", b""
        self.told: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """What the browser answers to `method`.

        Raises:
            RuntimeError: it refuses, or says nothing.
        """
        self.number += 1
        message = {"id": self.number, "method": method, "params": words}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.asked, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])

    def _next(self) -> dict[str, Any]:
        """The next message of the browser; those that nobody asked for are noted."""
        while b"\0" not in self.held:
            if not select.select([self.answered], [], [], PATIENCE_S)[0]:
                raise RuntimeError(f"the browser says nothing for {PATIENCE_S:g} s")
            read = os.read(self.answered, 2**20)
            if not read:
                raise RuntimeError("the browser has ended")
            self.held += read
        line, _, self.held = self.held.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        told = found.get("params", {})
        if found.get("method") == "Runtime.consoleAPICalled":
            self.told.append(f"console: {told['args']}")
        elif found.get("method") == "Log.entryAdded":
            self.told.append(f"console: {told['entry']['text']}")
        elif found.get("method") == "Network.requestWillBeSent":
            self.told.append(told["request"]["url"])
        return found

    def show(self, page: Path, width: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Loads the file `page` in a window of so many CSS pixels, in light or dark colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        found = self.call("Page.navigate", url=page.resolve(strict=True).as_uri())
        if "errorText" in found:
            raise RuntimeError(f"{page}: {found['errorText']}")
        began = time.monotonic()
        while self.value("document.readyState") != "complete":
            if time.monotonic() - began > PATIENCE_S:
                raise RuntimeError(f"{page} is not shown within {PATIENCE_S:g} s")
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def picture(self, top: float = 0.0, bottom: float | None = None) -> bytes:
        """The page from `top` to `bottom`, its end without it, in CSS pixels, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        height = min(bottom or size["height"], size["height"]) - top
        clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
        found = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def printed(self) -> bytes:
        """The page on A4, as PDF."""
        found = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(found["data"])


@contextmanager
def browser(program: str = "chromium", words: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with an empty profile of its own; it ends with the block."""
    theirs_in, asked = os.pipe()
    answered, theirs_out = os.pipe()
    # The browser reads from 3 and writes to 4: none of ours may be one of them.
    ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 16) for end in (theirs_in, theirs_out)]
    os.close(theirs_in), os.close(theirs_out)

    def connect() -> None:
        os.dup2(ours[0], 3), os.dup2(ours[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        line = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--remote-debugging-pipe", f"--user-data-dir={profile}", *words]  # fmt: skip
        quiet = subprocess.DEVNULL
        running = subprocess.Popen(
            line, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=(3, 4), preexec_fn=connect
        )
        for end in ours:
            os.close(end)
        try:
            yield Browser(asked, answered)
        finally:
            os.close(asked), os.close(answered)
            running.terminate()
            running.wait(PATIENCE_S)
