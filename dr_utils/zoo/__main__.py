"""Train, measure and list the small networks: ``python -m dr_utils.zoo {train,evaluate,report}``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from dr_utils.checks import short
from dr_utils.models.cards import WEIGHTS, read_card
from dr_utils.progress import clock
from dr_utils.store import path_of
from dr_utils.zoo import RECIPES

say = partial(print, flush=True)  # at once: the output may be a pipe


def train_networks(args: argparse.Namespace) -> None:
    """Train, measure and store the networks asked for; those that are trained already are kept."""
    changes = {key: value for key in ("epochs", "attack_steps") if (value := getattr(args, key)) is not None}
    recipes = [replace(RECIPES[name], **changes) for name in (RECIPES if args.names == ["all"] else args.names)]
    with contextlib.suppress(OSError):
        args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out.is_dir() and os.access(args.out, os.W_OK)):
        raise ValueError(f"cannot write to {args.out}; choose another folder with --out.")
    from dr_utils.zoo import data, training  # these import torch

    for i, recipe in enumerate(recipes, start=1):
        label, wanted = f"[{i}/{len(recipes)}] {recipe.name}", {"n_classes": recipe.n_classes, "limit": args.limit}
        images, val = (data.load_images(args.data, split, **wanted) for split in ("train", "val"))
        card = read_card(recipe.name, args.out)
        if card is not None and (card.recipe, card.upstream_images) == (recipe.as_dict(), len(images)):
            say(f"{label}: kept, trained earlier")
            continue
        run = training.Training(recipe, images, device=args.device, precision=args.precision)
        say(f"{label}: {recipe.epochs} epochs on {run.device}, {len(images)} images")
        card = training.store_weights(run.run(), val, args.out)
        path_of("checkpoints", run.key).unlink(missing_ok=True)
        accuracies = f"clean {card.clean_accuracy:.3f}, robust {card.robust_accuracy:.3f}"
        say(f"{label}: {accuracies}, {clock(card.training_seconds)} of training")


def evaluate_networks(args: argparse.Namespace) -> None:
    """Measure stored networks again and print what their cards say beside it."""
    names = [name for name in RECIPES if read_card(name, args.out)] if args.names == ["all"] else args.names
    from dr_utils.models.small_networks import load_weights
    from dr_utils.zoo import attacks, data

    for name in names:
        network, card = load_weights(name, args.out)
        images = data.load_images(args.data, "val", n_classes=card.upstream_classes, limit=args.limit)
        attack = {"radius": card.robust_radius, "steps": card.robust_steps}
        found = attacks.evaluate(network, images, **attack, device=args.device)
        say(
            f"{name}: clean {found['clean_accuracy']:.4f} (card {card.clean_accuracy:.4f}), "
            f"robust {found['robust_accuracy']:.4f} (card {card.robust_accuracy:.4f}) on {len(images)} images"
        )


def report_networks(args: argparse.Namespace) -> None:
    """Print the cards in a folder as a table."""
    rows = {card.name: {
        "D": card.width, "classes": card.upstream_classes, "epochs": card.epochs, "clean": f"{card.clean_accuracy:.3f}",
        "robust": f"{card.robust_accuracy:.3f}", "eps": card.robust_radius, "parameters": f"{card.parameters:,}",
        "mult-adds": f"{card.multiply_adds:,}", "time": clock(card.training_seconds), "precision": card.precision,
        "hardware": card.hardware,
    } for name in RECIPES if (card := read_card(name, args.out))}  # fmt: skip
    say(pd.DataFrame.from_dict(rows, orient="index").to_string() if rows else f"no trained networks in {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 0 if done, 2 for bad input or files, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m dr_utils.zoo", description="The small networks.")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train networks; goes on where it was interrupted")
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    train.add_argument("--attack-steps", type=int, help="of adversarial training; 1 is fastest")
    train.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    evaluate = commands.add_parser("evaluate", help="measure stored weights again and compare with their card")
    for command in (train, evaluate):
        known = ("all", *RECIPES)
        command.add_argument("names", nargs="+", choices=known, metavar="NAME", help=f"some of: {', '.join(known)}")
        command.add_argument("--data", required=True, metavar="DIR", help="folder of the Tiny-ImageNet tar files")
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        command.add_argument("--limit", type=int, metavar="N", help="take only N images of each split, for trials")
    report = commands.add_parser("report", help="print the table of cards")
    for command, do in ((train, train_networks), (evaluate, evaluate_networks), (report, report_networks)):
        where = "folder of weights and cards (default: in the package)"
        command.add_argument("--out", metavar="DIR", default=WEIGHTS, type=Path, help=where)
        command.set_defaults(do=do)
    args = parser.parse_args(argv)
    try:
        args.do(args)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        print(f"zoo: {short(error, 1000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted: finished epochs are kept, the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
