"""Run the numbered notebooks of a profile: ``python -m dr_utils run``."""

from dr_utils.run.command import claims_lines, main, prepare, report_line, start
from dr_utils.run.notebooks import Run, find_notebooks, is_finished, notebook_key
from dr_utils.run.options import parse

__all__ = [
    "Run",
    "claims_lines",
    "find_notebooks",
    "is_finished",
    "main",
    "notebook_key",
    "parse",
    "prepare",
    "report_line",
    "start",
]
