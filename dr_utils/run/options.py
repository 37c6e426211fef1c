"""The options of a run. Standard library only: run_all.sh checks them before anything is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line and exits with status 2."""

    def error(self, message: str) -> None:
        """Print the message without the usage."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run to a parser."""
    add = parser.add_argument
    add("--profile", help="mini, paper or a YAML file (default: mini)")
    add("--only", nargs="+", metavar="NN", help="numbers of the notebooks to run (default: all)")
    add("--from-reference", action="store_true", help="redraw the paper's curves from its published numbers")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where networks run (default: %(default)s)")
    add("--data", metavar="DIR", help="the paper's data sets and, in DIR/weights, networks (default: DR_DATA)")
    add("--out", metavar="DIR", help="results go to DIR/<profile> (default: outputs in the checkout)")
    add("--force", action="store_true", help="do again what is finished")
    add("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of single notebooks: --only 08 -p model resnet18 -p data photos/")  # fmt: skip


def complete(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Fill in the profile; exit with status 2 where options contradict each other."""
    for option in ("profile", "only"):
        if args.from_reference and getattr(args, option):
            parser.error(f"--from-reference means --profile reference --only 01 03; leave out --{option}")
    args.profile = args.profile or ("reference" if args.from_reference else "mini")
    return args


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options of a run.

    Examples
    --------
    >>> args = parse(["--only", "01", "03", "-p", "limit", "100"])
    >>> args.profile, args.only, args.parameter
    ('mini', ['01', '03'], [['limit', '100']])
    """
    parser = Parser(prog="run_all.sh", description="Run the notebooks of a profile.", allow_abbrev=False)
    add_options(parser)
    return complete(parser.parse_args(argv), parser)


if __name__ == "__main__":
    parse()
