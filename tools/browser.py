"""A headless Chromium, controlled over a pipe: pictures of pages, and values of JavaScript.

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

TIMEOUT_S = 120.0
"""The longest wait for an answer; a page of a report loads within seconds."""


class Browser:
    """A page in a browser of its own.

    Attributes:
        events: the lines that the page wrote to its console, and each address that it requested.
    """

    def __init__(self, requests: int, responses: int) -> None:
        self.requests, self.responses = requests, responses
        self.number, self.session, self.buffer = 0, "", b""
        self.events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of the DevTools method `method`.

        Raises:
            RuntimeError: the browser returns an error, or does not answer in time.
        """
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        while True:
            response = self._next()
            if response.get("id") == self.number:
                if "error" in response:
                    raise RuntimeError(f"{method}: {response['error']}")
                return dict(response["result"])

    def _next(self) -> dict[str, Any]:
        """The next message of the browser; console lines and requests become events."""
        while b"\0" not in self.buffer:
            if not select.select([self.responses], [], [], TIMEOUT_S)[0]:
                raise RuntimeError(f"the browser does not answer for {TIMEOUT_S:g} s")
            read = os.read(self.responses, 2**20)
            if not read:
                raise RuntimeError("the browser has ended")
            self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        params = message.get("params", {})
        if message.get("method") == "Runtime.consoleAPICalled":
            self.events.append(f"console: {params['args']}")
        elif message.get("method") == "Log.entryAdded":
            self.events.append(f"console: {params['entry']['text']}")
        elif message.get("method") == "Network.requestWillBeSent":
            self.events.append(params["request"]["url"])
        return message

    def show(self, page: Path, width: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Loads the file `page` in a window `width` CSS pixels wide, in light or dark colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        result = self.call("Page.navigate", url=page.resolve(strict=True).as_uri())
        if "errorText" in result:
            raise RuntimeError(f"{page}: {result['errorText']}")
        started = time.monotonic()
        while self.value("document.readyState") != "complete":
            if time.monotonic() - started > TIMEOUT_S:
                raise RuntimeError(f"{page} does not load within {TIMEOUT_S:g} s")
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def picture(self, top: float = 0.0, bottom: float | None = None) -> bytes:
        """The page from `top` to `bottom` (default: its end), in CSS pixels, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        height = min(bottom or size["height"], size["height"]) - top
        clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
        result = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(result["data"])

    def pdf(self) -> bytes:
        """The page on A4, as PDF."""
        result = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(result["data"])


@contextmanager
def browser(program: str = "chromium", args: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with an empty profile; it ends with the block."""
    their_input, requests = os.pipe()
    responses, their_output = os.pipe()
    # The browser reads from 3 and writes to 4, so no descriptor of ours may be 3 or 4.
    ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 16) for end in (their_input, their_output)]
    os.close(their_input), os.close(their_output)

    def connect() -> None:
        os.dup2(ours[0], 3), os.dup2(ours[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--remote-debugging-pipe", f"--user-data-dir={profile}", *args]  # fmt: skip
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=null, stdout=null, stderr=null, pass_fds=(3, 4), preexec_fn=connect
        )
        for end in ours:
            os.close(end)
        try:
            yield Browser(requests, responses)
        finally:
            os.close(requests), os.close(responses)
            process.terminate()
            process.wait(TIMEOUT_S)
