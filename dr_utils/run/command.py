"""A run: options checked, the study computed once, claims judged once, then the notebooks and the report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dr_utils import claims
from dr_utils.checks import short
from dr_utils.claims.view import View
from dr_utils.device import device_name
from dr_utils.fetch import data_dir
from dr_utils.profiles import PROFILES, REFERENCE_NOTEBOOKS, find_profile, load_profile
from dr_utils.progress import clock
from dr_utils.report import write_report
from dr_utils.run.notebooks import NOTEBOOKS, Outcome, Run, computes, find_notebooks, run_notebooks
from dr_utils.run.options import parse
from dr_utils.run.parameters import read_parameters
from dr_utils.store import sha256_of
from dr_utils.study import Study, write_table


def main(argv: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> int:
    """Run notebooks as the command line says: 0 if all are done, 1 if one failed, 2 for bad input, 130 interrupted."""
    return start(parse(argv), folder)


def start(args: argparse.Namespace, folder: Path = NOTEBOOKS) -> int:
    """Do a run whose options are read, and return the exit status as `main` does."""
    try:
        notebooks, run = prepare(args, folder)
    except (ValueError, RuntimeError) as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    run.say(f"profile {run.profile.name}: {len(notebooks)} notebooks on {run.device}, results in {shown(run.folder)}")
    # A scheduler's or container's SIGTERM ends a run as cleanly as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = execute(notebooks, run)
        report = report_line(run, folder)
    except KeyboardInterrupt:
        run.say("interrupted: what is finished is kept, the same command goes on from here")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    end = f"{failed} of {len(outcomes)} notebooks failed" if failed else "all notebooks done"
    run.say("\n".join([*summary(outcomes, run, report), "", f"{end} in {clock(time.monotonic() - begun)}"]))
    return 1 if failed else 0


def prepare(args: argparse.Namespace, folder: Path = NOTEBOOKS) -> tuple[list[Path], Run]:
    """Check everything that can be checked before long work starts; return the notebooks and what they share.

    Raises
    ------
    ValueError, RuntimeError
        Bad input, in one sentence.
    """
    profile, path = load_profile(args.profile), find_profile(args.profile)
    if args.data:
        # Notebooks run in processes of their own, and in their own folder.
        os.environ["DR_DATA"] = str(Path(args.data).expanduser().resolve())
    data_dir()
    notebooks = find_notebooks(folder, args.only or (REFERENCE_NOTEBOOKS if profile.reference else None))
    parameters = read_parameters(args.parameter, notebooks)
    study = Study(profile, out=args.out, device=args.device)
    if not all(map(computes, notebooks)):
        study.check_files()
    run = Run(
        profile,
        source=path.stem if path.parent == PROFILES else str(path),
        out=study.folder.parent,
        device=device_name(args.device),
        parameters=parameters,
        force=args.force,
    )
    try:
        run.executed.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run.executed):
            pass
    except OSError as error:
        why = f"{error.strerror}; choose another folder with --out."
        raise ValueError(f"cannot write to {run.executed}: {why}") from None
    return notebooks, run


def execute(notebooks: Sequence[Path], run: Run) -> list[Outcome]:
    """Compute the study, then run the notebooks; if there are no tables, only those that do not read them."""
    failed = {}
    if readers := [notebook for notebook in notebooks if not computes(notebook)]:
        run.say("measuring: results of earlier runs are reused")
        try:
            run.tables = {name: sha256_of(run.folder / "tables" / f"{name}.csv") for name in measure(run)}
        except Exception as error:  # noqa: BLE001 - notebooks that need no tables can still run
            why = short(f"{type(error).__name__}: {error}", 1000)
            run.say(f"measuring failed: {why}")
            failed = {notebook: Outcome(notebook, "failed", cell="measuring", error=why) for notebook in readers}
    done = {outcome.notebook: outcome for outcome in run_notebooks([n for n in notebooks if n not in failed], run)}
    return [(failed | done)[notebook] for notebook in notebooks]


def measure(run: Run) -> Iterable[str]:
    """Compute what a study lacks, judge the claims, write all tables, and return their names."""
    study = Study(run.profile, out=run.out, device=run.device)
    tables = study.run()
    judged = {"claims": claims.judge(tables)}
    if not study.profile.reference:
        judged["against_paper"] = claims.against_paper(View(tables))
    for name, table in judged.items():
        path, content = study.tables_folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n")
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_table(table, path)
    return tables | judged


def shown(path: Path) -> str:
    """Return a path, relative to the working folder if it lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def report_line(run: Run, folder: Path) -> str:
    """Write the page of this profile's results; return the line that says where it is, or why there is none."""
    try:
        return f"report (all on one page): {shown(write_report(run.folder, [n.stem for n in find_notebooks(folder)]))}"
    except (ValueError, OSError, RuntimeError) as error:
        return f"no report: {error}"


def summary(outcomes: Sequence[Outcome], run: Run, report: str) -> list[str]:
    """Return the lines that end a run: how each notebook went, where to look, and the claims."""
    lines = ["", f"profile {run.profile.name} on {run.device}:"]
    if run.profile.reference:
        lines.append("  published numbers: nothing was measured, and no claim is tested by them")
    width = max(len(outcome.notebook.stem) for outcome in outcomes)
    for outcome in outcomes:
        took = f"  {clock(outcome.seconds)}" if outcome.seconds else ""
        lines.append(f"  {outcome.notebook.stem:<{width}}  {outcome.status}{took}")
        if outcome.error:
            lines.append(f"    {outcome.cell}: {outcome.error}")
        if outcome.error and outcome.output:
            lines.append(f"    to read it: {shown(outcome.output)}")
    lines += ["", "where to look:", f"  {report}", f"  notebooks, figures and tables: {shown(run.folder)}"]
    return lines + claims_lines(run.folder / "tables" / "claims.csv")


def claims_lines(path: Path) -> list[str]:
    """Count the verdicts of a claims table and name the claims that differ."""
    if not path.is_file():
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    verdicts = ("holds", "differs", "not_tested")
    counts = ", ".join(f"{(table.verdict == verdict).sum()} {verdict.replace('_', ' ')}" for verdict in verdicts)
    lines = ["", f"the paper's {len(table)} claims: {counts}  ({shown(path)})"]
    for row in table[table.verdict == "differs"].itertuples():
        found = f"published {row.published}; measured {row.measured}"
        lines.append("  " + short(f"differs: {row.claim} ({row.paper_figure}): {found}", 160))
    return lines
