"""A JupyterLab on 127.0.0.1 and a Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dr_utils.profiles import CHECKOUT

SCREENSHOTS = CHECKOUT / "outputs" / "screenshots"
START = 180  # seconds that a server or a notebook may take on two busy cores
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
# Resolves with the milliseconds from a key press on a slider to the frame after the last change of anything in its
# output, charts and headings included; null where the readout did not change.
REPAINT = """(key) => new Promise((done) => {
  const readout = document.querySelector('.dr-readout').closest('.widget-html-content');
  const all = readout.closest('.jp-OutputArea-output') || document.body;
  const before = readout.innerHTML;
  const start = performance.now();
  let last = null;
  const seen = new MutationObserver(() => requestAnimationFrame(() => { last = performance.now(); }));
  seen.observe(all, {childList: true, subtree: true, characterData: true, attributes: true});
  document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  const look = setInterval(() => {
    const now = performance.now();
    const settled = last !== null && now - last > 250 && readout.innerHTML !== before;
    if (!settled && now - start < 5000) return;
    clearInterval(look);
    seen.disconnect();
    done(settled ? last - start : null);
  }, 20);
})"""


def chromium() -> str | None:
    """Path of Debian's Chromium or another one on the PATH; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # Containers have no user namespaces for its sandbox, and a /dev/shm that is too small.
        opened = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def server(command: list[str], folder: Path, ready: str | None = None) -> Iterator[int]:
    """A server of Jupyter's on a free port of 127.0.0.1; `ready` is a path that answers when it is up.

    Without one it is enough that the port is open: asking Voila for its page would start a kernel.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / ".jupyter" / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".jupyter" / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".jupyter" / "workspaces")}  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "DR_PROGRESS"} | own
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}"], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            end = time.monotonic() + START
            while True:
                with contextlib.suppress(OSError), _knock(port, ready):
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[0]} did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
                time.sleep(0.3)
            yield port
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _knock(port: int, path: str | None):
    if path is None:
        return socket.create_connection(("127.0.0.1", port), timeout=5)
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5)


@contextlib.contextmanager
def lab(folder: Path, theme: str = "light") -> Iterator[str]:
    """JupyterLab at a folder, with a token; gives the address of a notebook with ``{}`` in place of its name."""
    token = secrets.token_hex(16)
    settings = folder / ".jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": THEMES[theme]}))
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    command = ["jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--IdentityProvider.token={token}", "--allow-root",
               f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]  # fmt: skip
    with server(command, folder, f"/api/status?token={token}") as port:
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"


def place_notebook(name: str, folder: Path, **parameters) -> Path:
    """Copy a notebook of the suite with other parameters."""
    notebook = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if c["metadata"].get("tags") == ["parameters"])
    cell["source"] = [*cell["source"], "\n", *(f"{key} = {value!r}\n" for key, value in parameters.items())]
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def run_all(page, address: str) -> None:
    """Open a notebook, run all its cells and wait until the kernel is idle again."""
    page.goto(address, timeout=START * 1000)
    idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    page.wait_for_selector(idle, timeout=START * 1000)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
    finished(page)


def finished(page) -> None:
    """Wait until every cell that was asked to run has run; those out of sight may not be drawn."""
    page.wait_for_timeout(1000)
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(p => p.innerText.includes('*'))",
        timeout=START * 1000,
    )
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=START * 1000)


def picture(page, name: str) -> Path:
    """Keep a screenshot for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=str(path))
    return path
