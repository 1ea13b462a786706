"""A headless browser for tests, controlled by the DevTools protocol over a pipe."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MAX_SECONDS = 300
KEY_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Escape": 27}
SHIFT = 8
# Expression that is true when a page has been built.
READY = "document.documentElement?.dataset.ready"
# URLs that need no network.
LOCAL_SCHEMES = ("file:", "blob:", "data:")


class Browser:
    """One headless browser. Network requests and console messages of a page are collected as problems."""

    def __init__(self, folder: Path):
        program = next((path for name in NAMES if (path := shutil.which(name))), None)
        if program is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)")
        self.folder, self.numbers, self.buffer, self.problems, self.session = folder, itertools.count(1), b"", [], None
        self.target = None
        # The browser reads commands from file descriptor 3 and answers on file descriptor 4.
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        flags = ["--headless", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        flags += ["--window-size=1200,900", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        wiring = f'exec "$@" 3<&{commands} 4>&{answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", wiring, "bash", program, *flags],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.limit = threading.Timer(MAX_SECONDS, self.process.kill)
        self.limit.start()

    def close(self) -> None:
        self.limit.cancel()
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def ask(self, method: str, **params: Any) -> dict:
        """Sends one command and returns its result; events of the page in between are checked for problems."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params}
        if self.session is not None:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _message(self) -> dict:
        while b"\0" not in self.buffer:
            data = os.read(self.read, 1 << 20)
            assert data, f"the browser has exited or took longer than {MAX_SECONDS} s"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict) -> None:
        method, params = message["method"], message["params"]
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(params)
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(LOCAL_SCHEMES):
            self.problems.append(params["request"]["url"])

    def open(self, html: str, ready: str, fragment: str = "") -> None:
        """Opens a page from a file in a new tab and waits until an expression is true in it.

        Args:
          html: The page.
          ready: JavaScript expression.
          fragment: End of the address, such as "#step=3".
        """
        path = self.folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.session = None
        if self.target is not None:
            self.ask("Target.closeTarget", targetId=self.target)
        self.target = target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=path.as_uri() + fragment)
        self.run(f"new Promise((done) => {{ const look = () => {ready} ? done() : setTimeout(look, 20); look(); }})")
        self.settle()

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Waits until the page has been redrawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Presses a key."""
        text = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": KEY_CODES[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)
        self.settle()

    def drag(self, start: list[float], end: list[float]) -> None:
        """Moves the mouse from one position to another with its button pressed."""
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **button)
        if start != end:
            self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=end[0], y=end[1], **button)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **button)
        self.settle()

    def click(self, selector: str) -> None:
        """Clicks on the center of an element."""
        center = (
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        position = self.run(center)
        self.drag(position, position)

    def wheel(self, position: list[float], delta: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=position[0], y=position[1], deltaX=0, deltaY=delta)
        self.settle()


def picture(browser: Browser, panel: int = 0) -> np.ndarray:
    """Pixels of a map."""
    url = browser.run(f"panels[{panel}].canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def differ(first: np.ndarray, second: np.ndarray) -> bool:
    return not np.array_equal(first, second)


def screen_position(browser: Browser, panel: int, agent: int) -> list[float]:
    """Position of an agent on the screen, pixels."""
    return browser.run(f"""(() => {{
      const {{ canvas, camera, rollout }} = panels[{panel}];
      const box = canvas.getBoundingClientRect();
      const pose = agentAt(scene, rollout, {agent}, view.time);
      const [column, row] = toCanvas(camera, pose.x, pose.y);
      return [box.left + column / devicePixelRatio, box.top + row / devicePixelRatio];
    }})()""")
