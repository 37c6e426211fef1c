"""Train, measure and list the small networks: ``python -m dr_utils.zoo {train,evaluate,report}``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dr_utils.progress import clock
from dr_utils.zoo import cards
from dr_utils.zoo.recipes import RECIPES, Recipe, find_recipe


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m dr_utils.zoo", description="The small-network zoo.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train networks; goes on where it was interrupted")
    train.add_argument("names", nargs="+", metavar="NAME", help=f"'all', or some of: {', '.join(RECIPES)}")
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    train.add_argument("--attack-steps", type=int, help="of adversarial training; 1 is fastest")
    train.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    evaluate = commands.add_parser("evaluate", help="measure stored weights again and compare with their card")
    evaluate.add_argument("names", nargs="+", metavar="NAME", help="'all', or networks that are trained")
    report = commands.add_parser("report", help="print the table of cards")
    for command in (train, evaluate):
        command.add_argument("--data", required=True, metavar="DIR", help="folder of the Tiny-ImageNet tar files")
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        command.add_argument("--limit", type=int, metavar="N", help="take only N images of each split, for trials")
    for command in (train, evaluate, report):
        command.add_argument("--out", metavar="DIR", default=cards.WEIGHTS, type=Path,
                             help="folder of weights and cards (default: in the package)")  # fmt: skip
    return parser.parse_args(argv)


def _recipe(name: str, args: argparse.Namespace) -> Recipe:
    changes = {key: value for key in ("epochs", "attack_steps") if (value := getattr(args, key)) is not None}
    for key, value in changes.items():
        if value < 1:
            raise ValueError(f"--{key.replace('_', '-')} must be at least 1; got {value}.")
    return dataclasses.replace(find_recipe(name), **changes)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out.") from None


def train_networks(args: argparse.Namespace) -> None:
    """Train, measure and store the networks asked for; those that are there already stay."""
    recipes = [_recipe(name, args) for name in (RECIPES if args.names == ["all"] else args.names)]
    _check_folder(args.out)
    # Only now what takes seconds to import.
    from dr_utils.device import pick_device
    from dr_utils.zoo.data import load_images
    from dr_utils.zoo.training import checkpoint_path, pick_precision, train
    from dr_utils.zoo.weights import store_weights

    device = pick_device(args.device)
    splits: dict[int, tuple] = {}
    for i, recipe in enumerate(recipes, start=1):
        if recipe.n_classes not in splits:
            # The last choice of classes only: the recipes are ordered by it.
            wanted = {"n_classes": recipe.n_classes, "limit": args.limit}
            splits = {recipe.n_classes: tuple(load_images(args.data, split, **wanted) for split in ("train", "val"))}
        images, val = splits[recipe.n_classes]
        if images.classes != val.classes:
            raise ValueError("the train and val tar files hold different classes; fetch both again.")
        card = cards.read_card(recipe.name, args.out)
        label = f"[{i}/{len(recipes)}] {recipe.name}"
        if card is not None and cards.is_of(card, recipe, len(images)):
            say(f"{label}: kept, trained earlier")
            continue
        say(f"{label}: {recipe.epochs} epochs on {device}, {len(images)} images")
        trained = train(recipe, images, device=device, precision=args.precision)
        card = store_weights(trained, recipe, images, val, folder=args.out, device=device)
        checkpoint_path(recipe, images, pick_precision(args.precision, device)).unlink(missing_ok=True)
        accuracies = f"clean {card.clean_accuracy:.3f}, robust {card.robust_accuracy:.3f}"
        say(f"{label}: {accuracies}, {clock(card.training_seconds)} of training")


def evaluate_networks(args: argparse.Namespace) -> None:
    """Measure stored networks again and print what their cards say beside it."""
    names = [name for name in RECIPES if cards.read_card(name, args.out)] if args.names == ["all"] else args.names
    for name in names:
        find_recipe(name)
    from dr_utils.models.small_networks import load_weights
    from dr_utils.zoo.data import load_images
    from dr_utils.zoo.evaluation import evaluate

    if not names:
        say(f"no trained networks in {args.out}")
    for name in names:
        network, card = load_weights(name, args.out)
        images = load_images(args.data, "val", n_classes=card.upstream_classes, limit=args.limit)
        found = evaluate(
            network, images, radius=card.robust_radius, steps=card.robust_steps, device=args.device
        )  # fmt: skip
        say(
            f"{name}: clean {found['clean_accuracy']:.4f} (card {card.clean_accuracy:.4f}), "
            f"robust {found['robust_accuracy']:.4f} (card {card.robust_accuracy:.4f}) on {found['images']} images"
        )


def say(line: str) -> None:
    """Print a whole line now: the output may be a pipe."""
    print(line, flush=True)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if done, 2 for bad input or files, 130 if interrupted."""
    args = parse(argv)
    before = None
    with contextlib.suppress(ValueError):  # a handler can be set in the main thread only
        before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if args.command == "report":
            say(cards.report(args.out))
        elif args.command == "train":
            train_networks(args)
        else:
            evaluate_networks(args)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted: finished epochs are kept, the same command goes on from there")
        return 130
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
