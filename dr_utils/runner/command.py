"""The command line of `run_all.sh`: read, checked, carried out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dr_utils.fetch import data_dir
from dr_utils.parameters import read_parameters
from dr_utils.profiles import PROFILES, REFERENCE, REFERENCE_NOTEBOOKS, find_profile, load_profile
from dr_utils.progress import clock
from dr_utils.runner.notebooks import NOTEBOOKS, Run, find_notebooks, run_notebooks
from dr_utils.runner.telling import report_line, say, shown, summary


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="run_all.sh",
        description="Run the numbered notebooks of a profile, one after the other.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", help="mini, paper or a YAML file (default: mini)")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers of the notebooks to run (default: all)")
    parser.add_argument(
        "--from-reference",
        action="store_true",
        help="redraw the paper's curves from its published numbers: --profile reference --only 01 03",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=None,
        help="results go to DIR/<profile> (default: outputs/<profile> in the checkout)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of the paper's data sets, and of weights in DIR/weights (default: DR_DATA)",
    )
    parser.add_argument("--force", action="store_true", help="do again what is finished")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of single notebooks, such as 08's model and data",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.from_reference:
        for option in ("profile", "only"):
            if getattr(args, option):
                parser.error(f"--from-reference stands for --profile reference --only 01 03; leave out --{option}")
        args.profile = REFERENCE
    args.profile = args.profile or "mini"
    return args


def prepare(args: argparse.Namespace, folder: Path = NOTEBOOKS) -> tuple[list[Path], Run]:
    """Check everything that can be checked before long work starts."""
    profile = load_profile(args.profile)
    if args.data:
        # Notebooks run in processes of their own, and in their own folder.
        os.environ["DR_DATA"] = str(Path(args.data).expanduser().resolve())
    data_dir()
    notebooks = find_notebooks(folder, args.only or (REFERENCE_NOTEBOOKS if profile.reference else None))
    parameters = read_parameters(args.parameter, notebooks)
    # Only now what takes seconds to import: it knows networks, tasks, devices and the cache.
    from dr_utils.study import Study

    study = Study(profile, out=args.out, device=args.device)
    if any("study.run(" in notebook.read_text(encoding="utf-8") for notebook in notebooks):
        study.check_files()
    path = find_profile(args.profile)
    source = path.stem if path.parent == PROFILES else str(path)
    run = Run(profile, source, study.folder.parent, study.device.type, folder, parameters, say)
    try:
        run.executed.mkdir(parents=True, exist_ok=True)
        probe = run.executed / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        why = f"{error.strerror}; choose another folder with --out."
        raise ValueError(f"cannot write to {run.executed}: {why}") from None
    return notebooks, run


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> int:
    """Run notebooks as the command line says; 0 if all are done, 1 if one failed, 2 for bad input, 130 interrupted."""
    args = parse(argv)
    try:
        notebooks, run = prepare(args, folder)
    except (ValueError, RuntimeError) as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    say(f"profile {run.profile.name}: {len(notebooks)} notebooks on {run.device}, results in {shown(run.folder)}")
    # A scheduler's or container's SIGTERM ends a run as cleanly as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcomes = run_notebooks(notebooks, run, force=args.force)
        report = report_line(run)
    except KeyboardInterrupt:
        say("interrupted: what is finished is kept, the same command goes on from here")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    for line in summary(outcomes, run, report):
        say(line)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    say(
        f"\n{f'{failed} of {len(outcomes)} notebooks failed' if failed else 'all notebooks done'} "
        f"in {clock(time.monotonic() - start)}"
    )
    return 1 if failed else 0
