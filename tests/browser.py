"""A headless Chromium that a test drives: by its own debugging protocol over a pipe, without any further program.

with Browser(profile) as page:
    page.open(url)
    page.wait("document.title !== ''")
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1240,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
    "about:blank",
]
ANSWERS_WITHIN_S = 20.0


class Browser:
    """One page. What it logs as an error is in `errors`."""

    def __init__(self, profile: Path) -> None:
        browser = shutil.which("chromium")
        assert browser is not None
        self.errors: list[str] = []
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # Chromium reads its commands from descriptor 3 and writes to 4.
        command = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "chromium", browser, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)

    def __enter__(self) -> Browser:
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(entry["targetId"] for entry in targets if entry["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Runtime.enable")
        self.ask("Page.enable")
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._session = None
        try:
            self.ask("Browser.close")
            self._process.wait(10)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._out)
            os.close(self._in)

    def ask(self, method: str, forgiven: tuple[str, ...] = (), **parameters: Any) -> Any:
        """One command of the protocol, and its result. forgiven: words of errors that count as an empty one."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + ANSWERS_WITHIN_S
        while True:
            answer = self._next(until, method)
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if answer.get("id") == self._number:
                if any(word in str(answer.get("error")) for word in forgiven):
                    return {"result": {}}
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self, until: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser did not answer {method}"
            data = os.read(self._in, 1 << 20)
            assert data, f"the browser ended at {method}"
            self._rest += data
        first, self._rest = self._rest.split(b"\0", 1)
        return json.loads(first)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait(
            f"location.href.startsWith({json.dumps(url.partition('#')[0])}) && document.readyState === 'complete'"
        )

    def run(self, expression: str) -> Any:
        """What the page makes of it; a promise is waited for."""
        told = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, condition: str, within_s: float = 10.0) -> None:
        """Until the page says that it holds; looked at every frame, inside the page."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            # A navigation throws the waiting page away: then it is asked anew.
            told = self.ask(
                "Runtime.evaluate",
                ("navigated", "context"),
                expression="new Promise((done) => { const end = performance.now() + 300; (function look() {"
                f" if ({condition}) done(true); else if (performance.now() > end) done(false);"
                " else setTimeout(look, 10); })(); })",
                returnByValue=True,
                awaitPromise=True,
            )
            if told["result"].get("value") is True:
                return
        raise AssertionError(f"not within {within_s} s: {condition}")

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def dark(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = True) -> bytes:
        """A PNG of the page."""
        data = base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
        path.write_bytes(data)
        return data
