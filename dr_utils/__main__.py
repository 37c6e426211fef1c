"""The commands of the suite: ``python -m dr_utils {run,models,estimate,train,readme}``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dr_utils import run
from dr_utils.device import device_name
from dr_utils.models.cards import WEIGHTS, table
from dr_utils.profiles import load_profile
from dr_utils.readme import renew
from dr_utils.run.options import Parser
from dr_utils.zoo import RECIPES


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit with status 2 where it is wrong."""
    parser = Parser(prog="python -m dr_utils", description="The diffused redundancy suite.")
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    add("run", help="run the notebooks of a profile, as ./run_all.sh does")
    models = add("models", help="list the paper's networks, and where their weights are or how to get them")
    words = "folder whose folder 'weights' has weight files (default: DR_DATA)"
    models.add_argument("--data", metavar="DIR", help=words)
    project = add("estimate", help="project what a profile takes here: forward passes, bytes, time")
    project.add_argument("--profile", default="paper", help="mini, paper or a YAML file (default: %(default)s)")
    project.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: %(default)s)")
    train, known = add("train", help="train small networks; goes on where it was interrupted"), ("all", *RECIPES)
    train.add_argument("names", nargs="+", choices=known, metavar="NAME", help=f"some of: {', '.join(known)}")
    train.add_argument("--data", required=True, metavar="DIR", help="folder of the Tiny-ImageNet tar files")
    words = "folder of weights and cards (default: in the package)"
    train.add_argument("--out", metavar="DIR", default=WEIGHTS, type=Path, help=words)
    train.add_argument("--epochs", type=int, default=argparse.SUPPRESS, help="instead of the recipe's")
    words = "of adversarial training; 1 is fastest"
    train.add_argument("--attack-steps", type=int, default=argparse.SUPPRESS, help=words)
    train.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    train.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    train.add_argument("--limit", type=int, metavar="N", help="take only N images of each split, for trials")
    add("readme", help="renew README's claims from outputs/full")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if done, 1 if a notebook failed, 2 for bad input or files, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:
        return run.main(argv[1:])
    args = parse(argv)
    try:
        if args.command == "models":
            if args.data:
                os.environ["DR_DATA"] = args.data
            print(table())
        elif args.command == "estimate":
            from dr_utils.estimate import estimate, report  # imports torch, which a run may not need

            profile = load_profile(args.profile)
            print(report(profile, estimate(profile, device=args.device), device_name(args.device)))
        elif args.command == "train":
            from dr_utils.zoo.training import train_networks  # imports torch

            given = {key: value for key, value in vars(args).items() if key not in ("command", "names")}
            train_networks(RECIPES if args.names == ["all"] else args.names, **given)
        else:
            renew()
    except (ValueError, RuntimeError, FloatingPointError) as error:
        print(f"dr_utils {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the same command goes on from there", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
