"""From a key press on a slider of notebook 00 to the repainted frame, in JupyterLab and Chromium.

    python tests/benchmarks/bench_sliders.py [--profile mini]

Uses the finished run of the profile; prints median and 90th percentile over moves of fraction and delta, with one
network and with several.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from browser_parts import REPAINT, browser, chromium, lab, open_notebook, place_notebook

SLIDERS = {"fraction": 0, "delta": 1}


def milliseconds(page, place: int, moves: int) -> list[float]:
    """Repaints of so many moves of one slider, to and fro."""
    page.locator(".noUi-handle").nth(place).focus()
    found = []
    for i in range(moves):
        key = "ArrowLeft" if i % 6 < 3 else "ArrowRight"
        found.append(page.evaluate(REPAINT, key))
    return [value for value in found if value is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="default: %(default)s")
    parser.add_argument("--out", default=None, help="folder of the results (default: outputs)")
    parser.add_argument("--moves", type=int, default=30, help="of each slider (default: %(default)s)")
    options = parser.parse_args()
    if chromium() is None:
        raise SystemExit("needs Chromium (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        place_notebook("00_start_here", Path(folder), profile=options.profile, out=options.out)
        with lab(Path(folder)) as address, browser(viewport={"width": 1400, "height": 1300}) as page:
            open_notebook(page, address.format("00_start_here.ipynb"))
            page.wait_for_selector(".bqplot")
            for networks in (1, 4):
                names = page.locator("select[multiple] option").all_inner_texts()[:networks]
                page.locator("select[multiple]").select_option(names)
                page.wait_for_timeout(1500)  # what the choice repaints is not measured
                for slider, place in SLIDERS.items():
                    found = sorted(milliseconds(page, place, options.moves))
                    print(
                        f"{len(names)} network(s), {slider}: median {statistics.median(found):.0f} ms, "
                        f"90th percentile {found[int(0.9 * (len(found) - 1))]:.0f} ms, {len(found)} moves"
                    )


if __name__ == "__main__":
    main()
