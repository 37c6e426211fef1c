"""Feature extraction, resizing and bookkeeping included, against the bare forward pass, side by side in one run.

    python tests/benchmarks/bench_extraction.py --network efficientnet_lite0
    python tests/benchmarks/bench_extraction.py --side 224 --resolution 224 --batch-size 128 512 --device cuda

Both sides run as many images through the same network (random weights) in the same batches, in turns; the ratio is bare
time over extraction time, 1 at best. On CUDA in half precision; the bare side's images are on the device already.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from dr_utils.datasets import ImageTask
from dr_utils.device import pick_device
from dr_utils.features import extract, resize_batch
from dr_utils.models import Network, load_model


def seconds(function) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50_standard", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=1024, help="(default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=96, help="pixels (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="side of the images as stored (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64], help="one or several (default: 64)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    options = parser.parse_args()
    device = pick_device(options.device)
    network = load_model(options.network, pretrained=False)
    network.module.to(device=device, memory_format=torch.channels_last)
    images = np.random.default_rng(0).integers(0, 256, (options.images, options.side, options.side, 3), np.uint8)
    task = ImageTask("noise", "test", images, np.zeros(len(images), np.int64), ("none",), "benchmark")
    for batch_size in options.batch_size:
        compare(options, network, task, device, batch_size)


def compare(options: argparse.Namespace, network: Network, task: ImageTask, device: torch.device, size: int) -> None:
    """Print both throughputs and their ratio at one batch size."""
    images = task.images
    # A few batches, over and over: those of all images need not fit on the device.
    kept = [
        resize_batch(images[i : i + size], options.resolution, device)
        for i in range(0, min(len(images), 4 * size), size)
    ]
    ready = [batch.contiguous(memory_format=torch.channels_last) for batch in kept]

    def bare():
        context = torch.autocast("cuda", torch.float16, enabled=device.type == "cuda")
        with torch.inference_mode(), context:
            for turn in range(-(-len(images) // size)):
                network.module(ready[turn % len(ready)])
            if device.type == "cuda":
                torch.cuda.synchronize()

    def extraction():
        extract(network, task, resolution=options.resolution, device=device, batch_size=size, store=False)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    bare(), extraction()
    times = [(seconds(bare), seconds(extraction)) for _ in range(options.rounds)]
    print(
        f"{options.network}, {len(images)} images at {options.resolution} px in batches of {size}, {device}: "
        f"bare {len(images) / min(t for t, _ in times):.0f} images/s, "
        f"extraction {len(images) / min(t for _, t in times):.0f} images/s, "
        f"ratio {statistics.median(b / e for b, e in times):.2f}"
        + (f"; {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device.type == "cuda" else "")
    )


if __name__ == "__main__":
    main()
