"""What a profile would cost here: forward passes, bytes and time, projected from a short calibration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dr_utils.checks import unknown
from dr_utils.datasets import available as available_tasks
from dr_utils.device import pick_device
from dr_utils.models import Network, load_model
from dr_utils.probes import fit_probes
from dr_utils.probes.chunks import find_chunks
from dr_utils.profiles import Profile
from dr_utils.progress import clock, progress
from dr_utils.subsets import PROJECTIONS, n_neurons, random_subsets

# Which notebook a cell is first needed for; all notebooks share one computation of it.
NOTEBOOKS = {
    "01": "ResNet50, or the first network, and its adversarial counterpart",
    "03": "other architectures and upstream data",
    "04": "narrow layers",
    "05": "Matryoshka",
    "07": "ImageNet-1k and ImageNetV2",
}
# Trainings and image forwards of the authors' public code, counted from its scripts: in all, and for the paper alone.
PUBLISHED = {"trainings": (14_478, 6_209), "forwards": (72.3e9, 8.8e9)}
WARM_UP, MEASURED = 1, 3


@dataclass(frozen=True)
class CellCost:
    """What one cell takes.

    Attributes
    ----------
    network, task, notebook : str
    forwards : int
        Images through the network.
    published_forwards : int
        The same if each probe ran the network over every image of every epoch, as the public code does.
    probes : int
    bytes : int
        Features that are stored.
    flops : float
        Of the products of probe training.
    device_bytes : int
        Memory that training all probes of the cell at once takes on a GPU; with less they are trained in waves.
    """

    network: str
    task: str
    notebook: str
    forwards: int
    published_forwards: int
    probes: int
    bytes: int
    flops: float
    device_bytes: int


def sizes(profile: Profile, task: str) -> tuple[int, dict[str, int], int]:
    """Number of train images, of images in each evaluation set, and of classes.

    Raises
    ------
    ValueError
        Nobody knows the task.
    """
    cards = available_tasks()
    if task not in cards:
        raise unknown("task", task, cards)
    card, spec = cards[task], profile.tasks[task]
    evals = {name: spec.test or card.splits[name] for name in spec.eval_sets}
    return spec.train or card.splits["train"], evals, card.n_classes


def cell_cost(profile: Profile, network: Network, task: str, notebook: str) -> CellCost:
    """Count what a cell takes; nothing is run."""
    spec, name = profile.tasks[task], network.card.name
    n_train, evals, n_classes = sizes(profile, task)
    probe = profile.spec(name, task).probe.sgd()
    augmentation = spec.augmentation or profile.extraction.augmentation
    # Views are stored beside the plain features, which PCA, CKA and ridge see; fresh ones are not.
    views = 0 if augmentation == "none" else probe["epochs"] if augmentation == "fresh" else augmentation.views
    kept = 0 if augmentation == "fresh" else views
    lengths = [
        n_neurons(network.width, fraction)
        for selection, fractions in profile.selected(name, task).items()
        for fraction in fractions
    ]
    probes = len(lengths) * len(profile.seeds)
    n_eval = sum(evals.values())
    return CellCost(
        name, task, notebook,
        forwards=n_train * (1 + views) + n_eval,
        published_forwards=probes * (probe["epochs"] * n_train + n_eval),
        probes=probes,
        bytes=(n_train * (1 + kept) + n_eval) * network.width * np.dtype(spec.storage).itemsize,
        # Forward and gradient: two products, each 2 n k C operations, in every epoch.
        flops=4.0 * n_train * n_classes * sum(lengths) * len(profile.seeds) * probe["epochs"],
        device_bytes=_device_bytes(profile, network, task, n_train, n_classes, probe["batch_size"]),
    )  # fmt: skip


def _device_bytes(profile: Profile, network: Network, task: str, n_train: int, n_classes: int, batch_size: int) -> int:
    """Features as the probes see them, the components of projections beside the neurons, and all probes."""
    columns, subsets, start = network.width, [], 0
    for selection, fractions in profile.selected(network.card.name, task).items():
        lengths = sorted({n_neurons(network.width, fraction) for fraction in fractions})
        # Which neurons these are does not matter here, only how many probes share them.
        subsets += [np.arange(start, start + k) for k in lengths]
        start += lengths[-1]
        if selection in PROJECTIONS:
            columns += lengths[-1] * (len(profile.seeds) if selection.startswith("projection") else 1)
    # Half precision survives only where no float32 component stands beside the neurons.
    storage = profile.tasks[task].storage if columns == network.width else "float32"
    features = n_train * columns * np.dtype(storage).itemsize
    chunks = find_chunks(subsets, [0] * len(subsets))
    return features + len(profile.seeds) * sum(c.n_bytes(columns, n_classes, batch_size, 4) for c in chunks)


def notebook_of(profile: Profile, network: Network, task: str) -> str:
    """The notebook that a cell is first needed for, of `NOTEBOOKS`."""
    card = network.card
    if task == "imagenet1k":
        return "07"
    if card.training in ("narrow", "mrl"):
        return {"narrow": "04", "mrl": "05"}[card.training]
    # The network of Figure 1: the paper's, else the first of the profile.
    first = next((n for n in profile.networks if "resnet50_standard" in n), profile.networks[0])
    return "01" if first in (card.name, card.robust_of) else "03"


def images_per_second(network: Network, resolution: int, device: torch.device, batch_size: int, mixed: bool) -> float:
    """Throughput of the network on batches that are on the device already."""
    module = network.module.to(device=device, memory_format=torch.channels_last)
    batch = torch.rand(batch_size, 3, resolution, resolution, device=device).contiguous(
        memory_format=torch.channels_last
    )
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, half, enabled=mixed):
        seconds = _seconds(lambda: module(batch), device)
    return batch_size / seconds


def probe_rate(device: torch.device, batch_size: int, width: int = 2048, n_classes: int = 100) -> float:
    """Floating point operations per second of probe training, on a grid of the size that the paper's are."""
    fractions, seeds = (0.005, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0), (1, 2, 3, 4, 5)
    subsets = [s for fraction in fractions for s in random_subsets(width, fraction, seeds)]
    generator = np.random.default_rng(0)
    n = 2 * batch_size
    x, y = generator.random((n, width), dtype=np.float32), np.arange(n) % n_classes
    every = list(seeds) * len(fractions)

    def train(epochs: int) -> Callable[[], object]:
        return lambda: fit_probes(
            x, y, x[:n_classes], y[:n_classes], subsets, epochs=epochs, seed=every, device=device, batch_size=batch_size
        )

    # The difference leaves out what is done once: copies to the device, and evaluation.
    few, many = _seconds(train(1), device, repeats=1), _seconds(train(5), device, repeats=1)
    return 4 * 4.0 * n * n_classes * sum(map(len, subsets)) / max(many - few, 1e-6)


def _seconds(call: Callable[[], object], device: torch.device, repeats: int = MEASURED) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM_UP):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats


def estimate(profile: Profile, *, device: str = "auto", batch_size: int | None = None) -> pd.DataFrame:
    """Project what a profile takes on this machine.

    Networks are built with random weights and no image is opened, so neither weights nor data need be there.

    Parameters
    ----------
    profile : Profile
    device : {"auto", "cpu", "cuda"}
    batch_size : int, optional
        Of the calibration; by default the profile's, on a CPU at most 32.

    Returns
    -------
    DataFrame
        One row per cell: the fields of `CellCost`, `images_per_second`, `extraction_s` and `probes_s`.

    Raises
    ------
    ValueError
        A network or task that nobody knows, or a profile of published numbers.
    """
    if profile.reference:
        raise ValueError(
            f"profile {profile.name} holds published numbers: nothing is computed, so nothing to estimate."
        )
    where = pick_device(device)
    mixed = profile.extraction.precision == "mixed" or (profile.extraction.precision == "auto" and where.type == "cuda")
    batch_size = batch_size or min(profile.extraction.batch_size, 32 if where.type == "cpu" else 1 << 20)
    for task in profile.tasks:
        sizes(profile, task)
    by_network: dict[str, list[str]] = {}
    for name, task in profile.cells():
        by_network.setdefault(name, []).append(task)
    rows, speeds = [], {}
    for name, tasks in progress(list(by_network.items()), desc="calibrating", unit="networks"):
        network = load_model(name, pretrained=False)
        shape = tuple((key, tuple(value.shape)) for key, value in network.module.state_dict().items())
        for task in tasks:
            resolution = network.card.side or profile.tasks[task].resolution
            # Networks of one architecture are measured once.
            if (shape, resolution) not in speeds:
                speeds[shape, resolution] = images_per_second(network, resolution, where, batch_size, mixed)
            cost = cell_cost(profile, network, task, notebook_of(profile, network, task))
            rows.append({**cost.__dict__, "images_per_second": speeds[shape, resolution]})
    table = pd.DataFrame(rows)
    rate = probe_rate(where, profile.probe.batch_size)
    table["extraction_s"] = table.forwards / table.images_per_second
    table["probes_s"] = table.flops / rate
    return table


def report(profile: Profile, table: pd.DataFrame, device: str) -> str:
    """The projection as text: by notebook, in all, and beside the published procedure."""
    sums = ["forwards", "published_forwards", "probes", "bytes", "extraction_s", "probes_s"]
    by = table.groupby("notebook", sort=True)[sums].sum()
    lines = [
        f"profile {profile.name} on {device}: projected from a calibration of seconds, not measured",
        "",
        f"{'notebook':<10}{'image forwards':>16}{'as published':>16}{'probes':>9}{'features':>12}{'extraction':>12}"
        f"{'probes take':>13}",
    ]
    for name, row in [*by.iterrows(), ("in all", by.sum())]:
        lines.append(
            f"{name:<10}{row.forwards:>16,.0f}{row.published_forwards:>16,.0f}{row.probes:>9,.0f}"
            f"{row.bytes / 1e9:>9,.1f} GB{clock(row.extraction_s):>12}{clock(row.probes_s):>13}"
        )
    largest = table.loc[table.device_bytes.idxmax()]
    lines += ["", *(f"{name}: {NOTEBOOKS[name]}" for name in by.index)]
    lines.append(
        f"All probes of a cell at once take at most {largest.device_bytes / 1e9:.1f} GB of a GPU's memory "
        f"({largest.network} on {largest.task}), by count; with less they are trained in waves."
    )
    lines += [
        "All notebooks share these: whichever runs first computes them. Not counted: reading and decoding images, CKA, "
        "figures.",
        f"'As published' is what these probes would take if each ran the network over every image of every epoch, "
        f"{by.published_forwards.sum() / by.forwards.sum():,.0f} times as many.",
    ]
    if profile.name == "paper":
        lines.append(
            f"The public code in all: {PUBLISHED['trainings'][0]:,} probe trainings and "
            f"{PUBLISHED['forwards'][0] / 1e9:.1f} billion image forwards; for the paper alone "
            f"{PUBLISHED['trainings'][1]:,} and {PUBLISHED['forwards'][1] / 1e9:.1f} billion."
        )
    return "\n".join(lines)
