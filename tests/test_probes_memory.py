"""Grids cut to fit a device: every probe is trained, within the bytes given, and to the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dr_utils.probes import fit_probes, masked
from dr_utils.probes.masked import Block, find_chunks, plan_waves

SETTINGS = {"epochs": 3, "batch_size": 32, "step_epochs": 2}


def make_task(n=150, width=30, n_classes=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    x = np.maximum(rng.normal(size=(n, width)) + rng.normal(size=(n_classes, width))[y], 0)
    return x.astype(np.float32), y


def grid(width, lengths, seeds, lonely=True):
    subsets, probe_seeds = [], []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(width)
        subsets += [order[:k] for k in lengths]
        probe_seeds += [seed] * len(lengths)
    if lonely:  # a prefix of no other
        subsets.append(np.array([width - 1, 0]))
        probe_seeds.append(seeds[0])
    return subsets, probe_seeds


def needs(chunks, *sizes):
    return [chunk.n_bytes(*sizes) for chunk in chunks]


@pytest.mark.parametrize("seed", range(20))
def test_waves_hold_every_probe_once_and_stay_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    width, n_classes, n_seeds = int(rng.integers(3, 60)), int(rng.integers(2, 40)), int(rng.integers(1, 8))
    lengths = sorted({int(k) for k in rng.integers(1, width + 1, 4)})
    subsets, seeds = grid(width, lengths, range(n_seeds))
    chunks, sizes = find_chunks(subsets, seeds), (width, n_classes, 32, 4)
    features, everything = int(rng.integers(1, 1_000_000)), sum(needs(chunks, *sizes))
    single = max(needs(find_chunks(subsets, seeds, fits=lambda chunk: False), *sizes))
    for budget in (single, max(needs(chunks, *sizes)), everything, features * 2 + single, 10**12):
        resident, waves = plan_waves(subsets, seeds, features, budget, *sizes)
        assert resident == (features <= budget / 2)
        assert all(sum(needs(wave, *sizes)) <= budget - features * resident for wave in waves)
        probes = [(p, part.seed) for wave in waves for part in wave for p in part.probes]
        assert sorted(probes) == list(enumerate(seeds))
        assert all(np.isin(subsets[p], part.columns).all() for wave in waves for part in wave for p in part.probes)
    assert resident and len(waves) == 1
    with pytest.raises(ValueError, match="a probe on .* neurons takes .* GB"):
        plan_waves(subsets, seeds, single, single - 1, *sizes)


def test_bytes_of_a_chunk_are_those_of_its_tensors():
    subsets, seeds = grid(30, (3, 11, 30), [1], lonely=False)
    (chunk,) = find_chunks(subsets, seeds)
    block = Block([chunk], subsets, [1], 6)
    names = ("weight", "bias", "mask", "weight_velocity", "bias_velocity")
    held = sum(getattr(block, name).untyped_storage().nbytes() for name in names)
    gradient = (block.weight.numel() + block.bias.numel()) * 4
    step = chunk.n_bytes(30, 6, 32, 4) - held - gradient
    # Logits of 3 probes x 6 classes and what is made of them; features of 30 neurons, stored, converted and chosen.
    assert step == 4 * 32 * (2 * 3 * 6 + 3 * 30)


class Watched(masked.Trainer):
    """A trainer that is remembered."""

    made: list = []

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.made.append(self)


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.setattr(masked, "Trainer", Watched)
    Watched.made.clear()
    return Watched.made


@pytest.mark.parametrize("chunks_at_once", [1, 2, 100])
@pytest.mark.parametrize("held_out", [0.0, 0.2])
@pytest.mark.parametrize("augmented", [False, True])
def test_probes_are_the_same_whatever_the_memory(trainers, chunks_at_once, held_out, augmented):
    x, y = make_task(n=900)
    subsets, seeds = grid(30, (2, 9, 30), (1, 2, 3, 4, 5))
    budget = chunks_at_once * max(needs(find_chunks(subsets, seeds), 30, 6, 32, 4))
    asked = []

    def x_epochs(epoch):
        asked.append(epoch)
        return x + np.float32(0.1 * epoch)

    settings = SETTINGS | {"seed": seeds, "held_out": held_out, "x_epochs": x_epochs if augmented else None}
    cut = fit_probes(x, y, x, y, subsets, memory=budget, **settings)
    assert asked == ([0, 1, 2] if augmented else [])  # one pass over the images, however many waves
    whole = fit_probes(x, y, x, y, subsets, **settings)
    assert [len(trainer.waves) > 1 for trainer in trainers] == [chunks_at_once < 100, False]
    np.testing.assert_allclose(cut.weight, whole.weight, atol=1e-6)
    np.testing.assert_allclose(cut.bias, whole.bias, atol=1e-6)


def test_half_precision_features_are_read_from_a_file(tmp_path):
    x, y = make_task(n=600)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    subsets, seeds = grid(30, (2, 9, 30), (1, 2, 3))
    read = fit_probes(mapped, y, x, y, subsets, seed=seeds, **SETTINGS)
    whole = fit_probes(mapped.astype(np.float32), y, x, y, subsets, seed=seeds, **SETTINGS)
    np.testing.assert_array_equal(read.weight, whole.weight)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["waves", "streamed", "streamed waves"])
def test_cuda_memory_stays_within_the_budget(kind, trainers):
    x, y = make_task(n=10_000, width=1024, n_classes=200)
    subsets, seeds = grid(1024, (100, 500, 1024), (1, 2, 3, 4, 5), lonely=False)
    settings = {"seed": seeds, "epochs": 2, "batch_size": 256, "device": "cuda"}
    taken = needs(find_chunks(subsets, seeds), 1024, 200, 256, 4)
    budget = {"waves": 2 * x.nbytes, "streamed": sum(taken), "streamed waves": max(taken)}[kind]
    whole = fit_probes(x, y, x[:500], y[:500], subsets, **settings)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cut = fit_probes(x, y, x[:500], y[:500], subsets, memory=budget, **settings)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * budget
    assert trainers[1].resident == (kind == "waves") and (len(trainers[1].waves) == 1) == (kind == "streamed")
    np.testing.assert_allclose(cut.accuracy, whole.accuracy, atol=0.01)
