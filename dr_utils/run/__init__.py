"""Run the numbered notebooks of a profile: the study computed, claims judged, the notebooks, the report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dr_utils import claims
from dr_utils.checks import short
from dr_utils.claims.view import View
from dr_utils.fetch import data_dir
from dr_utils.profiles import PROFILES, REFERENCE_NOTEBOOKS, SHIPPED, find_profile
from dr_utils.progress import clock
from dr_utils.readme import counts
from dr_utils.report import write_report
from dr_utils.run.notebooks import NOTEBOOKS, Execution, Run, computes, find_notebooks, read_parameters, run_notebooks
from dr_utils.run.options import parse
from dr_utils.store import sha256_of
from dr_utils.study import Study, read_tables, table_path, write_table


def main(argv: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> int:
    """Run notebooks as the command line says: 0 if all are done, 1 if one failed, 2 for bad input, 130 interrupted."""
    args, begun = parse(argv), time.monotonic()
    # A scheduler's or container's SIGTERM ends a run as cleanly as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        notebooks, run = prepare(args, folder)
        print(f"profile {run.profile.name} on {run.device}: {len(notebooks)} notebooks", flush=True)
        executions = execute(notebooks, run)
        end = summary(executions, run, [path.stem for path in find_notebooks(folder)])
    except (ValueError, RuntimeError) as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the same command goes on from here", flush=True)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{end} in {clock(time.monotonic() - begun)}", flush=True)
    return int(any(execution.error for execution in executions))


def prepare(args: argparse.Namespace, folder: Path = NOTEBOOKS) -> tuple[list[Path], Run]:
    """Check all that can be checked before long work starts; bad input raises ValueError or RuntimeError."""
    path = find_profile(args.profile)
    if args.data:
        # Notebooks run in processes of their own, and in their own folder.
        os.environ["DR_DATA"] = str(Path(args.data).expanduser().resolve())
    data_dir()
    study = Study(path, out=args.out, device=args.device, cluster=args.cluster)
    notebooks = find_notebooks(folder, args.only or (REFERENCE_NOTEBOOKS if study.profile.reference else ()))
    parameters = read_parameters(args.parameter, notebooks)
    if not all(map(computes, notebooks)):
        study.check_files()
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=study.folder).close()
    except OSError as error:
        raise ValueError(f"cannot write to {study.folder}: {error.strerror}; choose another with --out.") from None
    source = path.stem if path.parent == PROFILES else str(path)
    return notebooks, Run(
        study.profile, source, study.folder, study.device, parameters, force=args.force, cluster=args.cluster
    )


def execute(notebooks: Sequence[Path], run: Run) -> list[Execution]:
    """Compute the study, then run the notebooks; if there are no tables, only those that do not read them."""
    executions = [Execution(path, f"[{i}/{len(notebooks)}]") for i, path in enumerate(notebooks, start=1)]
    if readers := [execution for execution in executions if not computes(execution.path)]:
        print("measuring: results of earlier runs are reused", flush=True)
        try:
            run.tables = measure(run)
        except Exception as error:  # noqa: BLE001 - notebooks that need no tables can still run
            why = short(f"{type(error).__name__}: {error}", 1000)
            print(f"measuring failed: {why}", flush=True)
            for execution in readers:
                execution.status, execution.cell, execution.error = "failed", "measuring", why
    run_notebooks(executions, run)
    return executions


def measure(run: Run) -> dict[str, str]:
    """Compute what a study lacks, judge the claims, write all tables, and return their hashes."""
    study = Study(run.profile, out=run.folder.parent, device=run.device, cluster=run.cluster)
    tables = study.run()
    judged = {"claims": claims.judge(tables)}
    if not study.profile.reference:
        judged["against_paper"] = claims.against_paper(View(tables))
    for name, table in judged.items():
        write_table(table, table_path(study.tables_folder, name))
    return {name: sha256_of(table_path(study.tables_folder, name)) for name in tables | judged}


def beside_shipped(folder: Path, shipped: Path = SHIPPED / "tables") -> str:
    """Say how a run's tables compare with those that come with the suite; "" where they have nothing in common."""
    if folder.resolve() == shipped or not all(table_path(f, "redundancy").is_file() for f in (folder, shipped)):
        return ""
    ours, theirs = (read_tables(tables, ["redundancy", "claims"]) for tables in (folder, shipped))
    suffixes, keys = ("", "_shipped"), ["model", "dataset", "solver", "features"]
    compared = "task == 'probe' and rule == 'crossing' and 0.899999 < delta < 0.900001"
    both = ours["redundancy"].query(compared).merge(theirs["redundancy"].query(compared), on=keys, suffixes=suffixes)
    if both.empty:
        return ""
    gap = both["dr"] - both["dr_shipped"]
    inside = both["dr_shipped"].between(both["low"], both["high"]).sum()
    verdicts = ours["claims"].merge(theirs["claims"], on="claim", suffixes=suffixes).query("verdict != verdict_shipped")
    other = [f"{row.claim} ({row.verdict}, there {row.verdict_shipped})" for row in verdicts.itertuples()]
    return (
        f"Beside {shipped.parent}, which came with the suite: DR(0.9) of {len(both)} curves differs by "
        f"{gap.mean():+.3f} on average and {gap.abs().max():.3f} at most, and is in this run's interval for {inside}. "
        f"Other verdicts: {', '.join(other) or 'none'}."
    )


def summary(executions: Sequence[Execution], run: Run, names: Sequence[str]) -> str:
    """Say how each notebook went, count the claims' verdicts and write the report; return the last line."""
    print(f"\nprofile {run.profile.name}, results in {run.folder}:")
    for execution in executions:
        print(f"  {execution.path.stem:<22}  {execution.status}  {clock(execution.seconds)}")
        if execution.error:
            print(f"    {execution.cell}: {execution.error}")
    table = run.folder / "tables" / "claims.csv"
    if table.is_file():
        print(counts(pd.read_csv(table, keep_default_na=False)))
    if beside := beside_shipped(table.parent):
        print(beside)
    if table.parent.is_dir() and any(table.parent.iterdir()):
        print(f"report (all on one page): {write_report(run.folder, names)}")
    failed = sum(execution.status == "failed" for execution in executions)
    return f"{failed} of {len(executions)} notebooks failed" if failed else "all notebooks done"
