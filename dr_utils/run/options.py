"""The options of a run. Standard library only: run_all.sh reads them before anything is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

USAGE = """./run_all.sh [options]            run the notebooks of a profile
       ./run_all.sh --setup              only the set-up
       ./run_all.sh --test [pytest ...]  run the tests; what follows goes to pytest
       ./run_all.sh --lab [jupyter ...]  open JupyterLab at 00_start_here; what follows goes to it
       ./run_all.sh --voila [voila ...]  serve the explorer alone as a page; what follows goes to voila"""
MORE = """\
environment:
  An active environment (venv or conda) that has this checkout and its requirements is used as it is.
  Otherwise .venv is made here with uv, which pip installs into .uv if there is none on the PATH.
  DR_DATA   used if --data is not given
  DR_HOME   folder of downloaded archives and computed features (default: the platform's user cache folder)
  DR_TORCH  cpu means --cpu-torch

exit status: 0 done, 1 a notebook or test failed (the others still ran), 2 wrong option or input, 3 set-up failed,
130 interrupted. To continue an interrupted run or set-up, give the same command again."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line and exits with status 2."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options of a run; exit with status 2 where they are wrong."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("run_all.sh", USAGE, epilog=MORE, formatter_class=layout, allow_abbrev=False)
    add, profile = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    profile("--profile", default="mini", help="the run covers mini, full, paper or a YAML file (default: %(default)s)")
    words = "measure nothing: redraw the paper's own curves from its published numbers"
    profile("--from-reference", dest="profile", action="store_const", const="reference", help=words)
    add("--only", nargs="+", metavar="NN", help="numbers of the notebooks to run, such as 01 03 (default: all)")
    words = "where networks run (default: %(default)s, a GPU if there is one)"
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help=words)
    words = "where cells are computed: local:N, in N processes; a Dask scheduler's address or file (default: as many \
processes as cores and memory allow; with a GPU one)"
    add("--cluster", default="auto", metavar="WHERE", help=words)
    words = "the paper's data sets and, in DIR/weights, networks (python -m dr_utils models)"
    add("--data", metavar="DIR", help=words)
    add("--out", metavar="DIR", help="results go to DIR/<profile> (default: outputs in the checkout)")
    add("--force", action="store_true", help="do again what is finished")
    words = "a parameter of single notebooks: --only 08 -p model resnet18 -p data photos/"
    add("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=words)
    words = "before any of the above: set up with the small CPU-only build of torch, from PyTorch's own package index"
    add("--cpu-torch", action="store_true", help=words)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse()
