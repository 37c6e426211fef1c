"""The suite's commands: ``python -m dr_utils {models,estimate}``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand: name, a line of help, what adds its options, and what does it and imports what that needs."""

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _models_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", help="folder whose folder 'weights' has weight files (default: DR_DATA)"
    )


def _models(args: argparse.Namespace) -> None:
    from dr_utils.models.paper.listing import table

    print(table(args.data))


def _estimate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="paper", help="mini, paper or a YAML file (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images in a batch of the calibration (default: the profile's)")


def _estimate(args: argparse.Namespace) -> None:
    from dr_utils.device import pick_device
    from dr_utils.estimate import estimate, report
    from dr_utils.profiles import load_profile

    profile = load_profile(args.profile)
    table = estimate(profile, device=args.device, batch_size=args.batch)
    print(report(profile, table, pick_device(args.device).type))


COMMANDS = (
    Command("models", "list the paper's networks, and where their weights are or how to get them", _models_options,
            _models),
    Command("estimate", "project what a profile takes here: forward passes, bytes, time", _estimate_options, _estimate),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line, with a subparser for each of `COMMANDS`."""
    whole = argparse.ArgumentParser(prog="python -m dr_utils", description="The diffused redundancy suite.")
    subparsers = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.options(subparsers.add_parser(command.name, help=command.help, description=command.help))
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if done, 2 for bad input or files."""
    args = parser().parse_args(argv)
    try:
        next(command for command in COMMANDS if command.name == args.command).run(args)
    except (ValueError, RuntimeError) as error:
        print(f"dr_utils {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
