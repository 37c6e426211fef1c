"""Run the numbered notebooks of a profile, one after the other: ``python -m dr_utils.runner``."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dr_utils import __version__
from dr_utils.assets import data_dir
from dr_utils.checks import unknown
from dr_utils.parameters import names_files, read_parameters
from dr_utils.profiles import (
    CHECKOUT,
    PROFILES,
    REFERENCE,
    REFERENCE_NOTEBOOKS,
    Profile,
    find_profile,
    load_profile,
)
from dr_utils.progress import clock
from dr_utils.report.notebooks import DONE

NOTEBOOKS = CHECKOUT / "notebooks"
LIBRARIES = ("torch", "torchvision", "timm", "numpy")  # those that compute
# They start notebooks or read what these wrote: no result depends on them.
NO_INPUTS = ("report", "readme.py", "runner.py")


@dataclass
class Outcome:
    """How one notebook went."""

    notebook: Path
    status: str  # "done", "kept" (finished earlier, from the same inputs) or "failed"
    seconds: float = 0.0
    cell: str = ""
    error: str = ""
    output: Path | None = None


@dataclass(frozen=True)
class Run:
    """What every notebook of one run is given."""

    profile: Profile
    profile_source: str
    out: Path
    device: str
    notebooks: Path = NOTEBOOKS
    parameters: Mapping[Path, Mapping[str, object]] = field(default_factory=dict)
    say: Callable[[str], None] = field(default=print, repr=False)

    @property
    def folder(self) -> Path:
        """Folder of this profile's results, ``<out>/<profile>``."""
        return self.out / self.profile.name

    @property
    def executed(self) -> Path:
        """Folder of the executed notebooks."""
        return self.folder / "notebooks"


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] | None = None) -> list[Path]:
    """Numbered notebooks of a folder in order.

    Parameters
    ----------
    folder : Path
        Where ``NN_name.ipynb`` are looked for.
    only : sequence of str, optional
        Numbers ("01", "3") or names ("03_architectures"); all by default.

    Raises
    ------
    ValueError
        A number or name that no notebook has, or no notebooks at all.
    """
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise ValueError(f"no numbered notebooks (NN_name.ipynb) in {folder}.")
    if not only:
        return found
    chosen = set()
    for asked in only:
        key = asked.removesuffix(".ipynb")
        matching = [path for path in found if path.stem == key or (key.isdigit() and int(path.name[:2]) == int(key))]
        if not matching:
            raise unknown("notebook", asked, [path.stem for path in found], hint="A number such as 01 will do.")
        chosen.update(matching)
    return [path for path in found if path in chosen]


def fingerprint(notebook: Path, run: Run) -> str:
    """SHA-256 of all that a notebook's result depends on.

    Its own cells (without outputs), the profile, its own parameters, the sources and data of ``dr_utils``, the device
    and the versions of the libraries that compute. Tables and figures follow from these.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in content["cells"]]
    package = Path(__file__).parent
    sources = sorted(
        path
        for path in package.rglob("*")
        if path.suffix in (".py", ".csv") and path.relative_to(package).parts[0] not in NO_INPUTS
    )
    inputs = {
        "cells": cells,
        "profile": run.profile.fingerprint(),
        "device": run.device,
        "parameters": dict(run.parameters.get(notebook, {})),
        "sources": {str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def circumstances(run: Run) -> dict:
    """What the report says about how a notebook was run: profile, device, hardware, versions and day, fit for JSON."""
    import torch

    from dr_utils.zoo.training import hardware_name

    return {
        "profile": run.profile.model_dump(mode="json"),
        "device": run.device,
        "hardware": hardware_name(torch.device(run.device)),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
            "dr_utils": __version__,
        },
        "finished": datetime.now(UTC).date().isoformat(),
    }


def is_finished(notebook: Path, run: Run) -> bool:
    """Whether the executed notebook exists, was made from the same inputs, and all that it wrote is still there."""
    try:
        metadata = json.loads((run.executed / notebook.name).read_text(encoding="utf-8"))["metadata"][DONE]
        made = [run.folder / name for name in metadata["made"]]
        return metadata["inputs"] == fingerprint(notebook, run) and all(path.is_file() for path in made)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_notebook(notebook: Path, run: Run, label: str = "") -> Outcome:
    """Execute one notebook; an error inside it is part of the outcome, an interrupt is raised."""
    from dr_utils import notebook_process

    run.executed.mkdir(parents=True, exist_ok=True)
    target, failed = run.executed / notebook.name, run.executed / f"{notebook.stem}.failed.ipynb"
    # The finished notebook appears under its name at once or not at all; the process id keeps two runs apart.
    unfinished = run.executed / f".{notebook.stem}.{os.getpid()}.ipynb"
    inputs, start, before = fingerprint(notebook, run), time.monotonic(), _made_in(run.folder)
    parameters = {"profile": run.profile_source, "out": str(run.out), "device": run.device}
    parameters |= run.parameters.get(notebook, {})
    try:
        failure = notebook_process.execute(notebook, unfinished, parameters, lambda line: run.say(f"{label}{line}"))
        seconds = time.monotonic() - start
        made = sorted(name for name, stamp in _made_in(run.folder).items() if before.get(name) != stamp)
        about = {"made": made, "seconds": round(seconds, 1), **circumstances(run)}
        if failure:
            if unfinished.is_file():
                # What ended the notebook, such as a full disk, may have left half of the file.
                with contextlib.suppress(ValueError, OSError):
                    _describe(unfinished, {**about, "cell": failure.cell, "error": failure.error})
                os.replace(unfinished, failed)
            return Outcome(
                notebook, "failed", seconds, failure.cell, failure.error, failed if failed.is_file() else None
            )
        _describe(unfinished, {"inputs": inputs, **about})
        os.replace(unfinished, target)
        failed.unlink(missing_ok=True)
        return Outcome(notebook, "done", seconds, output=target)
    finally:
        unfinished.unlink(missing_ok=True)


def _describe(notebook: Path, about: dict) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"][DONE] = about
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _made_in(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for kind in ("figures", "tables")
        for path in (folder / kind).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def run_notebooks(notebooks: Sequence[Path], run: Run, *, force: bool = False) -> list[Outcome]:
    """Run notebooks in order; one that fails does not stop the others.

    Parameters
    ----------
    notebooks : sequence of Path
        From `find_notebooks`.
    run : Run
        Profile, folder and device.
    force : bool
        Do again what is finished.

    Returns
    -------
    list of Outcome
        One per notebook.
    """
    outcomes = []
    for number, notebook in enumerate(notebooks, start=1):
        title = f"[{number}/{len(notebooks)}] {notebook.stem}"
        # Files of the user's may have changed since.
        again = force or names_files(run.parameters.get(notebook, {}))
        if not again and is_finished(notebook, run):
            run.say(f"{title}: finished earlier from the same inputs, kept (--force does it again)")
            outcomes.append(Outcome(notebook, "kept", output=run.executed / notebook.name))
            continue
        run.say(f"{title}: running")
        outcome = run_notebook(notebook, run, label=f"[{number}/{len(notebooks)}] ")
        run.say(f"{title}: {outcome.status} after {clock(outcome.seconds)}")
        outcomes.append(outcome)
    return outcomes


def report_line(run: Run) -> str:
    """Write the page of this profile's results; return the line that says where it is, or why there is none."""
    from dr_utils.report import write_report

    try:
        page = write_report(run.folder, [path.stem for path in find_notebooks(run.notebooks)])
    except (ValueError, OSError, RuntimeError) as error:
        return f"no report: {error}"
    return f"report (all on one page): {_shown(page)}"


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
                lines.append(f"    to read it: {_shown(outcome.output)}")
    lines += ["", "where to look:", f"  {report}"]
    for kind, what in {"notebooks": "executed", "figures": "PNG and PDF", "tables": "CSV"}.items():
        if (run.folder / kind).is_dir():
            lines.append(f"  {kind} ({what}): {_shown(run.folder / kind)}")
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
    lines = ["", f"the paper's {len(claims)} claims: {counts}  ({_shown(path)})"]
    for _, row in claims[claims["verdict"] == "differs"].iterrows():
        what = f"{row['claim']} ({row['paper_figure']})"
        found = f"published {row['published']}; measured {row['measured']}"
        lines.append("  " + _shortened(f"differs: {what}: {found}"))
    return lines


def _shortened(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 4].rstrip() + " ..."


def _shown(path: Path) -> str:
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="run_all.sh", description=__doc__.split(":")[0] + ".", allow_abbrev=False)
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


def say(line: str) -> None:
    """Print a whole line now: the output may be a pipe."""
    print(line, flush=True)


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
    say(f"profile {run.profile.name}: {len(notebooks)} notebooks on {run.device}, results in {_shown(run.folder)}")
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


if __name__ == "__main__":
    sys.exit(main())
