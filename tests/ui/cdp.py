"""A small client of the Chrome DevTools Protocol: as much as these tests need, over one WebSocket per page."""
import base64
import json
import pathlib
import subprocess
import time
import urllib.request

from websockets.sync.client import connect


class Browser:
    def __init__(self, program, profile):
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
             "--force-color-profile=srgb", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ready = pathlib.Path(profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (ready.is_file() and ready.read_text().count("\n") >= 1):
            assert self.process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{ready.read_text().split()[0]}"

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.process.terminate()
        self.process.wait(20)

    def page(self):
        request = urllib.request.Request(self.address + "/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Page(json.load(answer)["webSocketDebuggerUrl"])


class Page:
    def __init__(self, address):
        self.connection = connect(address, max_size=None, proxy=None)
        self.socket = self.connection.__enter__()
        self.last = 0
        self.problems = []  # console errors, exceptions, violations
        self.expected = "never"  # what a problem may contain
        self.fulfil = {}  # end of URL -> (status, content type, body) instead of the network
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def call(self, method, **params):
        self.last += 1
        wanted = self.last
        self.socket.send(json.dumps({"id": wanted, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == wanted:
                assert "error" not in message, (method, message)
                return message["result"]
            self._event(message)

    def _event(self, message):
        params = message.get("params", {})
        name = message.get("method")
        if name == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif name == "Fetch.requestPaused":
            self._answer(params)

    def _answer(self, params):
        for end, (status, kind, body) in self.fulfil.items():
            if params["request"]["url"].endswith(end):
                self.last += 1
                self.socket.send(json.dumps({"id": self.last, "method": "Fetch.fulfillRequest", "params": {
                    "requestId": params["requestId"], "responseCode": status,
                    "responseHeaders": [{"name": "Content-Type", "value": kind}],
                    "body": base64.b64encode(body.encode()).decode()}}))
                return
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": "Fetch.continueRequest",
                                     "params": {"requestId": params["requestId"]}}))

    def answer_with(self, end, status, kind, body):
        self.fulfil[end] = (status, kind, body)
        self.call("Fetch.enable", patterns=[{"urlPattern": "*" + e} for e in self.fulfil])

    def emulate(self, width=1280, height=800, dark=False, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def goto(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def reload(self):
        """Loads the page again and waits until the old document is gone: it satisfies most conditions itself."""
        self.js("window.ofTheOldDocument = true")
        self.call("Page.reload")
        self.wait("window.ofTheOldDocument === undefined && document.readyState === 'complete'")

    def wait(self, expression, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := self.js(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}\n" + str(self.js("document.body.innerText"))[-2000:])

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, name, code=None, modifiers=0):
        params = {"key": name, "code": code or name, "modifiers": modifiers,
                  "windowsVirtualKeyCode": {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowUp": 38}.get(name, 0)}
        if name == "Enter":
            params["text"] = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown", **params)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in params.items() if k != "text"})

    def click(self, selector):
        x, y = self.js(f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                       " return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        if self.connection is None:
            return
        self.call("Page.close")
        self.connection.__exit__(None, None, None)
        self.connection = None
