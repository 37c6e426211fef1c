"""What a run says when it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dr_utils.progress import clock
from dr_utils.runner.notebooks import Outcome, Run, find_notebooks


def say(line: str) -> None:
    """Print a whole line now: the output may be a pipe."""
    print(line, flush=True)


def report_line(run: Run) -> str:
    """Write the page of this profile's results; return the line that says where it is, or why there is none."""
    from dr_utils.report import write_report

    try:
        page = write_report(run.folder, [path.stem for path in find_notebooks(run.notebooks)])
    except (ValueError, OSError, RuntimeError) as error:
        return f"no report: {error}"
    return f"report (all on one page): {shown(page)}"


def summary(outcomes: Sequence[Outcome], run: Run, report: str) -> list[str]:
    """Lines that end a run: what went how, where to look, and the claims; `report` is from `report_line`."""
    lines = ["", f"profile {run.profile.name} on {run.device}:"]
    if run.profile.reference:
        lines.append("  published numbers: nothing was measured, and no claim is tested by them")
    width = max(len(outcome.notebook.stem) for outcome in outcomes)
    for outcome in outcomes:
        took = f"  {clock(outcome.seconds)}" if outcome.status != "kept" else ""
        lines.append(f"  {outcome.notebook.stem:<{width}}  {outcome.status}{took}")
        if outcome.status == "failed":
            lines.append(f"    {outcome.cell}: {outcome.error}")
            if outcome.output:
                lines.append(f"    to read it: {shown(outcome.output)}")
    lines += ["", "where to look:", f"  {report}"]
    for kind, what in {"notebooks": "executed", "figures": "PNG and PDF", "tables": "CSV"}.items():
        if (run.folder / kind).is_dir():
            lines.append(f"  {kind} ({what}): {shown(run.folder / kind)}")
    return lines + claims_lines(run.folder / "tables" / "claims.csv")


def claims_lines(path: Path) -> list[str]:
    """Count the verdicts of a claims table and name the claims that differ."""
    import pandas as pd

    if not path.is_file():
        return []
    claims = pd.read_csv(path, dtype=str, keep_default_na=False)
    counts = ", ".join(
        f"{int((claims['verdict'] == v).sum())} {v.replace('_', ' ')}" for v in ("holds", "differs", "not_tested")
    )
    lines = ["", f"the paper's {len(claims)} claims: {counts}  ({shown(path)})"]
    for _, row in claims[claims["verdict"] == "differs"].iterrows():
        what = f"{row['claim']} ({row['paper_figure']})"
        found = f"published {row['published']}; measured {row['measured']}"
        lines.append("  " + _shortened(f"differs: {what}: {found}"))
    return lines


def _shortened(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 4].rstrip() + " ..."


def shown(path: Path) -> str:
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)
