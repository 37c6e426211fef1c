"""Write the page of a finished run anew: ``python -m dr_utils.report [outputs/mini]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dr_utils.profiles import CHECKOUT
from dr_utils.report import write_report
from dr_utils.runner import find_notebooks


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and print where it is; 2 for a folder without results."""
    parser = argparse.ArgumentParser(prog="python -m dr_utils.report", description=__doc__.split(":")[0] + ".")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=CHECKOUT / "outputs" / "mini", help="results of a profile"
    )
    try:
        print(write_report(parser.parse_args(argv).folder, [path.stem for path in find_notebooks()]))
    except (ValueError, RuntimeError) as error:
        print(f"dr_utils.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
