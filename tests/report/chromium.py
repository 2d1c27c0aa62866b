"""Drives a headless Chromium over its debugging pipe: no package beside the standard library is needed."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
         "--disable-component-update", "--disable-dev-shm-usage", "--remote-debugging-pipe")  # fmt: skip
SECONDS = 60
MOVED = """import os, sys
for end, pipe in zip((3, 4), [os.dup(int(x)) for x in sys.argv[1:3]]):
    os.dup2(pipe, end)
    os.set_inheritable(end, True)
os.execv(sys.argv[3], sys.argv[3:])"""


def path():
    """The browser of this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab of a browser.

    Attributes:
      events: (method, parameters) of everything that the browser told so far.
    """

    def __init__(self, to, back):
        self._to, self._back, self._rest, self._number, self._session = to, back, b"", 0, None
        self.events = []

    def call(self, method, **parameters):
        """The answer to a command of the DevTools protocol."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            answer = self._next(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append((answer["method"], answer["params"]))

    def _next(self, until):
        while b"\0" not in self._rest:
            assert select.select([self._back], [], [], max(until - time.monotonic(), 0))[0], "no answer of the browser"
            read = os.read(self._back, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def open(self, file, width=1240, height=1000):
        """Opens a file and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        self.call("Page.navigate", url=pathlib.Path(file).absolute().as_uri())
        until = time.monotonic() + SECONDS
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            answer = self._next(until)
            self.events.append((answer["method"], answer["params"]))

    def size(self, width, height):
        """Sets the size of the window, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def value(self, script):
        """What an expression is."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def dark(self, on):
        """Whether the user prefers dark pages."""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}])  # fmt: skip

    def picture(self, file):
        """Writes what is seen as a PNG."""
        pathlib.Path(file).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser():
    """A `Page` of a browser that ends with the block."""
    to_child, to = os.pipe()
    back, from_child = os.pipe()
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # root has no sandbox

    # The protocol reads from 3 and writes to 4. A fork of this process, which has JAX's threads, could hang.
    start = [sys.executable, "-ISc", MOVED, str(to_child), str(from_child)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*start, path(), *flags, f"--user-data-dir={profile}"], pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        try:
            yield Page(to, back)
        finally:
            process.kill()
            process.wait()
            os.close(to)
            os.close(back)
