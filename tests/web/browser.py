"""Debian's Chromium without a window, driven by its own protocol: what a person would do, and what came of it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from codexpool.web.site import HOST
from tests.running import until

FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root with one.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # It would ask its maker for updates and more.
    "--remote-debugging-port=0",
)

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "ArrowUp": 38, "ArrowDown": 40}


def chromium() -> str | None:
    """The browser, where there is one."""
    return os.environ.get("CODEXPOOL_CHROMIUM") or shutil.which("chromium")


def axe() -> Path | None:
    """axe-core, where there is one."""
    named = os.environ.get("CODEXPOOL_AXE")
    return Path(named) if named else None


def _pac(proxy: str) -> str:
    address = proxy.removeprefix("http://")
    script = f"function FindProxyForURL(url, host) {{ return host === '{HOST}' ? 'PROXY {address}' : 'DIRECT'; }}"
    return base64.b64encode(script.encode()).decode()


class Browser:
    """One process of it, with a profile of its own in ``folder``.

    It reaches this machine and no other, and with ``proxy`` (``http://127.0.0.1:8080``) the status page behind that.
    """

    def __init__(self, folder: Path, proxy: str = "") -> None:
        command = chromium()
        assert command is not None, "needs Chromium: apt-get install chromium, or set CODEXPOOL_CHROMIUM"
        through = f"--proxy-pac-url=data:;base64,{_pac(proxy)}" if proxy else "--no-proxy-server"
        self._process = subprocess.Popen(
            [command, *FLAGS, through, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder), "LANG": "C.UTF-8"},
        )
        written = folder / "DevToolsActivePort"
        until(lambda: written.exists() and written.read_text().count("\n") >= 1, 30, "the browser to start")
        port, path = written.read_text().split("\n")[:2]
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None))
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End it."""
        self.call("Browser.close")
        self._open.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Have it do something, and return what it says to that."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            heard: dict[str, Any] = json.loads(self._socket.recv(60))
            if heard.get("id") != number:
                self._events.append(heard)
            elif "error" in heard:
                raise RuntimeError(f"{method}: {heard['error']['message']}")
            else:
                found: dict[str, Any] = heard["result"]
                return found

    def events(self, session: str) -> list[dict[str, Any]]:
        """What has happened in a tab so far."""
        self.call("Browser.getVersion")  # All that was said before its answer is read with it.
        return [event for event in self._events if event.get("sessionId") == session]

    def tab(self) -> Tab:
        """A new tab, in front."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, target, session)


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser, self._target, self._session = browser, target, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.look(1440, "light")

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """Be so wide (in CSS pixels), by day (``light``) or by night (``dark``)."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Evaluate an expression, waiting for it if it is a promise; its value has to be plain data."""
        told = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(f"{told['exceptionDetails']}\n{script[:300]}")
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = 15) -> None:
        """Wait until an expression holds."""
        deadline = time.monotonic() + seconds
        while not self._holds(script):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {script}")
            time.sleep(0.03)

    def _holds(self, script: str) -> bool:
        try:
            return bool(self.run(f"Boolean({script})"))
        except RuntimeError:
            return False  # Between two pages there is nothing to ask.

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key, and let it go."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        named = {"key": text if key == "Space" else key, "code": key, "modifiers": 8 if shift else 0}
        named |= {"windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def point(self, selector: str) -> None:
        """Move the pointer into the middle of an element."""
        box = self.run(f"JSON.parse(JSON.stringify(document.querySelector({selector!r}).getBoundingClientRect()))")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, file: Path, whole: bool = True) -> None:
        """Write what is seen as a PNG; with ``whole`` the page from top to bottom."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(told["data"]))

    def console(self) -> list[str]:
        """What a person would find in the console: messages, errors, refusals of the content security policy."""
        said = []
        for event in self._browser.events(self._session):
            what = event["params"]
            match event["method"]:
                case "Runtime.consoleAPICalled":
                    said.append(" ".join(str(one.get("value", one.get("description"))) for one in what["args"]))
                case "Runtime.exceptionThrown":
                    said.append(json.dumps(what["exceptionDetails"])[:1000])
                case "Log.entryAdded":
                    said.append(f"{what['entry']['level']}: {what['entry']['text']} {what['entry'].get('url', '')}")
        return said

    def requested(self) -> list[str]:
        """Every URL that the page asked for."""
        events = self._browser.events(self._session)
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
