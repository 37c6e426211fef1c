"""Decoding JPEG files in threads against a single-threaded loop, side by side in one run.

    python tests/benchmarks/bench_decoding.py

Both sides decode the same files of the usual size of ImageNet's, made in a temporary folder, in turns; the ratio is
the loop's time over the threads', the number of cores at best.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dr_utils.datasets.decode import LazyImages, read_ahead


def seconds(function) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def write_pictures(folder: Path, n: int, width: int, height: int) -> LazyImages:
    """Write JPEG files of about 100 kB: coarse colours with fine noise, as photographs have both."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
        noisy = np.clip(smooth + rng.normal(scale=12, size=smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.jpg", quality=90)
    return LazyImages([folder / f"{i}.jpg" for i in range(n)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=500, help="pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=375, help="pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = write_pictures(Path(folder), options.images, options.width, options.height)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / len(images)

        def loop():
            for i in range(len(images)):
                images.decode(i)

        def threads():
            with read_ahead(images) as take:
                for start in range(0, len(images), options.batch):
                    take(start, min(start + options.batch, len(images)))

        loop(), threads()
        times = [(seconds(loop), seconds(threads)) for _ in range(options.rounds)]
    print(
        f"{options.images} JPEG files of {options.width}x{options.height} pixels, {size / 1e3:.0f} kB each: "
        f"loop {len(images) / min(t for t, _ in times):.0f} images/s, "
        f"{os.cpu_count()} threads {len(images) / min(t for _, t in times):.0f} images/s, "
        f"ratio {statistics.median(a / b for a, b in times):.2f}"
    )


if __name__ == "__main__":
    main()
