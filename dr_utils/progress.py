"""Progress of long work: a bar for a person, a line every few seconds for a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator


def clock(seconds: float) -> str:
    """Write a duration as m:ss, or h:mm:ss from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class PlainProgress:
    """The part of tqdm that the suite uses, as whole lines on stderr: no carriage returns, at most one per interval."""

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str = "",
        total: int | None = None,
        unit: str = "it",
        every: float | None = None,
        even: bool = True,
    ):
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        self.iterable, self.desc, self.total, self.unit, self.even = iterable, desc, total, unit, even
        self.every = float(os.environ.get("DR_PROGRESS_SECONDS", 10)) if every is None else every
        self.n = 0
        self._start = self._last = time.monotonic()
        self._printed: int | None = None

    def update(self, n: int = 1) -> None:
        """Count `n` more; say so if the last line is old enough."""
        self.n += n
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            self._print()

    def set_description(self, desc: str) -> None:
        """Change what the next line says is being done."""
        self.desc = desc

    def close(self) -> None:
        """Print a last line, if there was a first one and it did not say as much."""
        if self._printed not in (None, self.n):
            self._print()

    def _print(self) -> None:
        self._printed = self.n
        spent = time.monotonic() - self._start
        line = f"{self.desc or 'working'}: {self.n}"
        if self.total:
            line += f" of {self.total} {self.unit} ({100 * self.n / self.total:.0f} %)"
        else:
            line += f" {self.unit}"
        line += f", {clock(spent)}"
        if self.even and self.total and 0 < self.n < self.total:
            line += f", about {clock(spent / self.n * (self.total - self.n))} left"
        print(line, file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def progress(
    iterable: Iterable | None = None,
    desc: str = "",
    total: int | None = None,
    unit: str = "it",
    *,
    even: bool = True,
    **kwargs,
):
    """Wrap an iterable, or count by hand with ``update``, and show how far the work is.

    Parameters
    ----------
    iterable : iterable, optional
        What to go through; without it, call ``update(n)`` on the result (a context manager).
    desc : str
        What is being done.
    total : int, optional
        How many steps there are, where the iterable does not know.
    unit : str
        What is counted, such as "images".
    even : bool
        Whether steps take about as long as each other; otherwise no time left is foretold, since it would be wrong.
    **kwargs
        Passed on to tqdm.

    Returns
    -------
    tqdm or PlainProgress
        A tqdm bar on a terminal and in a notebook opened by hand; into a file, or where the environment variable
        ``DR_PROGRESS`` is "plain" (the runner sets it), one line on stderr every ``DR_PROGRESS_SECONDS`` (10);
        where it is "off", nothing is shown.
    """
    mode = os.environ.get("DR_PROGRESS", "")
    # A bar redraws itself: right on a terminal and in a notebook opened by hand, thousands of lines in a file.
    by_hand = "ipykernel" in sys.modules or sys.stderr.isatty()
    if mode == "plain" or (mode == "" and not by_hand):
        return PlainProgress(iterable, desc, total, unit, even=even)
    from tqdm.auto import tqdm

    if not even:
        kwargs.setdefault("bar_format", "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]")
    # A bar that never moves says nothing.
    empty = total == 0 or (hasattr(iterable, "__len__") and len(iterable) == 0)
    return tqdm(iterable, desc=desc, total=total, unit=unit, disable=mode == "off" or empty, **kwargs)
