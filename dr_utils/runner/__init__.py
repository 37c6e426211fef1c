"""Run the numbered notebooks of a profile, one after the other: ``python -m dr_utils.runner``."""

from dr_utils.report.notebooks import DONE
from dr_utils.runner.command import main, parse, prepare
from dr_utils.runner.notebooks import (
    Outcome,
    Run,
    find_notebooks,
    fingerprint,
    is_finished,
    run_notebook,
    run_notebooks,
)
from dr_utils.runner.telling import claims_lines, report_line, summary

__all__ = [
    "DONE",
    "Outcome",
    "Run",
    "claims_lines",
    "find_notebooks",
    "fingerprint",
    "is_finished",
    "main",
    "parse",
    "prepare",
    "report_line",
    "run_notebook",
    "run_notebooks",
    "summary",
]
