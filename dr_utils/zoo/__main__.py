"""Train small networks: ``python -m dr_utils.zoo NAME ... --data DIR``; notebook 09 shows and measures them."""

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

from dr_utils.checks import short
from dr_utils.models.cards import WEIGHTS, read_card
from dr_utils.progress import clock
from dr_utils.store import path_of
from dr_utils.zoo import RECIPES

say = partial(print, flush=True)  # at once: the output may be a pipe


def train(args: argparse.Namespace) -> None:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 0 if done, 2 for bad input or files, 130 if interrupted."""
    about = "Train the small networks; goes on where it was interrupted."
    parser, known = argparse.ArgumentParser(prog="python -m dr_utils.zoo", description=about), ("all", *RECIPES)
    add = parser.add_argument
    add("names", nargs="+", choices=known, metavar="NAME", help=f"some of: {', '.join(known)}")
    add("--data", required=True, metavar="DIR", help="folder of the Tiny-ImageNet tar files")
    add("--out", metavar="DIR", default=WEIGHTS, type=Path, help="folder of weights and cards (default: the package)")
    add("--epochs", type=int, help="instead of the recipe's")
    add("--attack-steps", type=int, help="of adversarial training; 1 is fastest")
    add("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--limit", type=int, metavar="N", help="take only N images of each split, for trials")
    args = parser.parse_args(argv)
    try:
        train(args)
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
