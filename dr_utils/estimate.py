"""What a profile would cost here: forward passes, bytes and time, projected from a short calibration."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from dr_utils.datasets import available as available_tasks
from dr_utils.device import pick_device
from dr_utils.models import Network, check_network, load_model
from dr_utils.probes import fit_probes
from dr_utils.profiles import Profile
from dr_utils.progress import clock, progress
from dr_utils.subsets import every_subset, n_neurons, random_subsets


def estimate(profile: Profile, *, device: str = "auto") -> pd.DataFrame:
    """Project what a profile takes on this machine: one row per cell, as `count` says, with speed and seconds.

    Networks get random weights and no image is opened, so neither weights nor data need be there. Batches of the
    calibration are the profile's, on a CPU of 32 at most. Unknown names and published numbers raise ValueError.
    """
    if profile.reference:
        raise ValueError(f"profile {profile.name} holds published numbers: there is nothing to compute.")
    profile.check_names(check_network, available_tasks())
    where, settings = pick_device(device), profile.extraction
    mixed = settings.precision == "mixed" or (settings.precision == "auto" and where.type == "cuda")
    batch_size = settings.batch_size if where.type == "cuda" else min(settings.batch_size, 32)
    rows, speeds = [], {}
    for name in progress(list(dict.fromkeys(n for n, _ in profile.cells())), desc="calibrating", unit="networks"):
        network = load_model(name, pretrained=False)
        shapes = tuple((key, tuple(value.shape)) for key, value in network.module.state_dict().items())
        for task in (t for n, t in profile.cells() if n == name):
            resolution = network.card.side or profile.tasks[task].resolution
            # Networks of one architecture are measured once.
            if (shapes, resolution) not in speeds:
                speeds[shapes, resolution] = images_per_second(network, resolution, where, batch_size, mixed)
            rows.append(count(profile, network, task) | {"images_per_second": speeds[shapes, resolution]})
    table = pd.DataFrame(rows)
    rate = probe_rate(where, profile.probe.batch_size)
    return table.assign(extraction_s=table.forwards / table.images_per_second, probes_s=table.flops / rate)


def count(profile: Profile, network: Network, task: str) -> dict:
    """Count what a cell takes; nothing is run.

    `forwards` are images through the network, `published_forwards` those if each probe ran it over every image of every
    epoch, as the public code does; `bytes` are stored features, `flops` those of the products of probe training.
    """
    width, card, sizes = network.width, available_tasks()[task], profile.tasks[task]
    cell = profile.spec(network.card.name, task)
    probe, kind = cell.probe, cell.augmentation.get("kind")
    n_train, n_eval = sizes.train or card.splits["train"], sum(sizes.test or card.splits[s] for s in sizes.eval_sets)
    # Views are stored beside the plain features, which PCA, CKA and ridge see; fresh ones are not.
    views = kind["views"] if isinstance(kind, dict) else 0
    sampled = [fractions for selection, fractions in cell.selections.items() if selection != "every"]
    lengths = [n_neurons(width, f) for fractions in sampled for f in fractions] * len(cell.seeds)
    lengths += map(len, every_subset(width)) if "every" in cell.selections else []
    return {
        "network": network.card.name,
        "task": task,
        "forwards": n_train * (1 + (probe.epochs if kind == "fresh" else views)) + n_eval,
        "published_forwards": len(lengths) * (probe.epochs * n_train + n_eval),
        "probes": len(lengths),
        "bytes": (n_train * (1 + views) + n_eval) * width * np.dtype(sizes.storage).itemsize,
        # Forward and gradient: two products, each 2 n k C operations, in every epoch.
        "flops": 4.0 * n_train * len(card.classes) * sum(lengths) * probe.epochs,
    }


def images_per_second(network: Network, resolution: int, device: torch.device, batch_size: int, mixed: bool) -> float:
    """Measure the network on batches that are on the device already."""
    module = network.module.to(device=device, memory_format=torch.channels_last)
    batch = torch.rand(batch_size, 3, resolution, resolution, device=device).to(memory_format=torch.channels_last)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, half, enabled=mixed):
        return batch_size / seconds(lambda: module(batch))


def probe_rate(device: torch.device, batch_size: int, width: int = 2048, n_classes: int = 100) -> float:
    """Measure operations per second of probe training, on a grid of the size that the paper's are."""
    seeds = [1, 2, 3, 4, 5]
    subsets = [s for f in (0.005, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0) for s in random_subsets(width, f, seeds)]
    n = 2 * batch_size
    x, y = np.random.default_rng(0).random((n, width), dtype=np.float32), np.arange(n) % n_classes
    given = (x, y, x[:n_classes], y[:n_classes], subsets)
    options = {"seed": seeds * (len(subsets) // len(seeds)), "device": device, "batch_size": batch_size}
    # The difference leaves out what is done once: copies to the device, and evaluation.
    few, many = (seconds(lambda e=epochs: fit_probes(*given, epochs=e, **options), 1) for epochs in (1, 5))
    return 4 * 4.0 * n * n_classes * sum(map(len, subsets)) / max(many - few, 1e-6)


def seconds(call, repeats: int = 3) -> float:
    """Time a call, after one to warm up."""
    taken = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sum(taken[1:]) / repeats


def report(profile: Profile, table: pd.DataFrame, device: str) -> str:
    """Write the projection as text: by task, in all, and beside the published procedure."""
    sums = table.groupby("task", sort=False).sum(numeric_only=True)
    sums.loc["in all"] = sums.sum()
    columns = {
        "image forwards": sums.forwards.map("{:,.0f}".format),
        "as published": sums.published_forwards.map("{:,.0f}".format),
        "probes": sums.probes.map("{:,.0f}".format),
        "features": (sums.bytes / 1e9).map("{:,.1f} GB".format),
        "extraction": sums.extraction_s.map(clock),
        "probes take": sums.probes_s.map(clock),
    }
    lines = [
        f"profile {profile.name} on {device}: projected from a calibration of seconds, not measured\n",
        pd.DataFrame(columns).rename_axis(None).to_string(),
        "\nNot counted: reading images, CKA, figures.",
        "'As published' is what these probes would take if each ran the network over every image of every epoch, "
        f"{sums.published_forwards['in all'] / sums.forwards['in all']:,.0f} times as many.",
    ]
    return "\n".join(lines)
