"""Progress of long work: a tqdm bar for a person, a line every few seconds for a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import tqdm.auto


def clock(seconds: float) -> str:
    """Write a duration as m:ss, or h:mm:ss from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _WholeLines:
    """A file for tqdm that turns what it redraws into lines on stderr."""

    last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line not in ("", self.last):
            self.last = line
            print(line, file=sys.stderr, flush=True)


def progress(iterable: Iterable | None = None, desc="", total: int | None = None, unit="it", *, even: bool = True):
    """Return tqdm's bar, of an iterable or for ``update(n)``; without an ETA if steps are not about `even`ly long.

    A bar on a terminal and in a notebook opened by hand. In a file, or where the environment variable DR_PROGRESS is
    "plain" (the runner sets it), a line on stderr every TQDM_MININTERVAL (10) seconds; nothing where it is "off".
    """
    mode = os.environ.get("DR_PROGRESS", "")
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    # A bar that never moves says nothing.
    given = {"iterable": iterable, "desc": desc, "total": total, "unit": unit, "disable": mode == "off" or total == 0}
    if mode == "plain" or (mode == "" and "ipykernel" not in sys.modules and not sys.stderr.isatty()):
        counted = "{desc}: {n_fmt} of {total_fmt} {unit} ({percentage:.0f} %)" if total else "{desc}: {n_fmt} {unit}"
        given["bar_format"] = counted + (" [{elapsed}<{remaining}]" if even and total else " [{elapsed}]")
        every = float(os.environ.get("TQDM_MININTERVAL", 10))
        return tqdm.tqdm(**given, mininterval=every, delay=every, miniters=1, position=0, file=_WholeLines())
    shape = None if even else "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
    return tqdm.auto.tqdm(**given, bar_format=shape)
