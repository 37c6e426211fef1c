"""A JupyterLab on 127.0.0.1 and a Chromium that looks at it; everything waits for a state, nothing for a time."""

from __future__ import annotations

import contextlib
import json
import os
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
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
# JupyterLab's own account of the notebook on the page. Its indicator of the kernel cannot be used instead: it says
# "idle" before there is a kernel, and what is asked to run then is dropped without a word.
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  return Boolean(panel?.context?.isReady && panel.sessionContext.isReady
    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle');
}"""
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"  # resolves when all cells have run
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells
  .flatMap(cell => cell.outputs ?? []).filter(output => output.output_type === 'error')
  .map(error => `${error.ename}: ${error.evalue}`)"""
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
def browser(**options) -> Iterator:
    """A page of a headless Chromium that waits as long as a state takes to come; `options` as Playwright's new_page."""
    from playwright.sync_api import sync_playwright

    # Containers have no user namespaces for its sandbox, and a /dev/shm that is too small.
    switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=switches, timeout=0)
        try:
            page = opened.new_page(**options)
            page.set_default_timeout(0)
            yield page
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
            while True:
                with contextlib.suppress(OSError), _knock(port, ready):
                    break
                if process.poll() is not None:
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
        return socket.create_connection(("127.0.0.1", port))
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}")


@contextlib.contextmanager
def lab(folder: Path, theme: str = "light") -> Iterator[str]:
    """JupyterLab at a folder, with a token; gives the address of a notebook with ``{}`` in place of its name."""
    token = secrets.token_hex(16)
    chosen = {
        "apputils-extension/themes": {"theme": THEMES[theme]},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are on the page too
    }
    for name, values in chosen.items():
        path = folder / ".jupyter" / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = ["jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--IdentityProvider.token={token}", "--allow-root",
               f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0", "--expose-app-in-browser"]  # fmt: skip
    with server(command, folder, f"/api/status?token={token}") as port:
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"


def place_notebook(name: str, folder: Path, *, figures: bool = True, **parameters) -> Path:
    """Copy a notebook of the suite with other parameters; without `figures` none is written or shown."""
    notebook = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if c["metadata"].get("tags") == ["parameters"])
    cell["source"] = [*cell["source"], "\n", *(f"{key} = {value!r}\n" for key, value in parameters.items())]
    if not figures:
        cell["source"] += ["from dr_utils import plots\n", "plots.save_figure = lambda *_, **__: None\n"]
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def open_notebook(page, address: str) -> None:
    """Open a notebook and run all its cells, once its kernel is there."""
    page.goto(address)
    page.wait_for_function(READY)
    run_all(page)


def run_all(page) -> None:
    """Run all cells of the notebook on the page, to the end; an error in a cell is raised."""
    page.evaluate(RUN_ALL)
    errors = page.evaluate(ERRORS)
    assert not errors, "\n".join(errors)


def picture(page, name: str) -> Path:
    """Keep a screenshot for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=str(path))
    return path
