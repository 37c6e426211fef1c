"""Grids cut to fit a device: every probe is trained, within the bytes given, and to the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dr_utils.probes import fit_probes, memory
from dr_utils.probes.chains import group_probes
from dr_utils.probes.trainer import GroupTrainer

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
    if lonely:  # part of no chain
        subsets.append(np.array([width - 1, 0]))
        probe_seeds.append(seeds[0])
    return subsets, probe_seeds


def needs(groups, n_classes, batch_size=32, dtype=torch.float32):
    return [memory.group_bytes(group, n_classes, batch_size, dtype) for group in groups]


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_every_chain_once_and_stay_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    width, n_classes, n_seeds = int(rng.integers(3, 60)), int(rng.integers(2, 40)), int(rng.integers(1, 8))
    lengths = sorted({int(k) for k in rng.integers(1, width + 1, 4)})
    groups = group_probes(*grid(width, lengths, range(n_seeds)))
    features = int(rng.integers(1, 1_000_000))
    single = max(needs([part for g in groups for part in g.split(len(g.seeds))], n_classes))
    for budget in (single, single + features, single * 2 + features, sum(needs(groups, n_classes)), 10**12):
        found = memory.plan(groups, features, n_classes, 32, torch.float32, budget)
        left = budget - (features if found.resident else 0)
        assert all(sum(needs(wave, n_classes)) <= left for wave in found.waves)
        assert found.n_bytes <= budget
        assert found.resident == (features + single <= budget)
        chains = [(s, tuple(c)) for wave in found.waves for g in wave for s, c in zip(g.seeds, g.columns, strict=True)]
        wanted = [(s, tuple(c)) for g in groups for s, c in zip(g.seeds, g.columns, strict=True)]
        assert sorted(chains) == sorted(wanted)
    assert len(found.waves) == 1 and found.copy_bytes == memory.COPY_BYTES
    with pytest.raises(ValueError, match="one chain of nested probes takes .* GB"):
        memory.plan(groups, features, n_classes, 32, torch.float32, single - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_of_a_group_are_those_of_its_tensors(dtype):
    x, y = make_task(n_classes=6)
    (group,) = group_probes(*grid(30, (3, 11, 30), range(4), lonely=False))
    trainer = GroupTrainer(
        group, torch.as_tensor(y), 6, dtype, momentum=0.9, weight_decay=0.0, copy_bytes=0, streamed=False
    )
    held = sum(t.untyped_storage().nbytes() for t in (trainer.flat, trainer.velocity, trainer.grad))
    weights = 4 * 6 * (3 + 11 + 30 + 3)
    step = memory.group_bytes(group, 6, 32, dtype) - held
    assert held == 3 * weights * dtype.itemsize
    assert step == dtype.itemsize * 2 * 4 * 32 * (3 * 6 + 30)  # logits of 3 probes x 6 classes, features of 30 neurons


def budgets(x, subsets, seeds, n_classes, workers):
    """Bytes that force: resident in waves, streamed at once, streamed in waves."""
    groups = [part for g in group_probes(subsets, seeds) for part in g.split(workers)]
    single = max(needs([part for g in groups for part in g.split(len(g.seeds))], n_classes))
    everything = sum(needs(groups, n_classes))
    return {"waves": (x.nbytes + single, True, False), "streamed": (everything, False, True),
            "streamed waves": (single, False, False)}  # fmt: skip


@pytest.mark.parametrize("kind", ["waves", "streamed", "streamed waves"])
@pytest.mark.parametrize("held_out", [0.0, 0.2])
@pytest.mark.parametrize("augmented", [False, True])
def test_probes_are_the_same_whatever_the_memory(monkeypatch, kind, held_out, augmented):
    x, y = make_task(n=900)
    subsets, seeds = grid(30, (2, 9, 30), (1, 2, 3, 4, 5))
    budget, resident, one_wave = budgets(x, subsets, seeds, 6, torch.get_num_threads())[kind]
    plans, real, asked = [], memory.plan, []
    monkeypatch.setattr(memory, "plan", lambda *given: plans.append(real(*given)) or plans[-1])

    def x_epochs(epoch):
        asked.append(epoch)
        return x + np.float32(0.1 * epoch)

    settings = SETTINGS | {"seed": seeds, "held_out": held_out, "x_epochs": x_epochs if augmented else None}
    cut = fit_probes(x, y, x, y, subsets, memory=budget, **settings)
    assert asked == ([0, 1, 2] if augmented else [])  # one pass over the images, however many waves
    whole = fit_probes(x, y, x, y, subsets, **settings)
    assert plans[0].resident == resident and (len(plans[0].waves) == 1) == one_wave
    assert plans[1].resident and len(plans[1].waves) == 1
    np.testing.assert_allclose(cut.weight, whole.weight, atol=1e-6)
    np.testing.assert_allclose(cut.bias, whole.bias, atol=1e-6)


def test_half_precision_features_are_streamed_from_a_file(tmp_path):
    x, y = make_task(n=600)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    subsets, seeds = grid(30, (2, 9, 30), (1, 2, 3))
    budget, *_ = budgets(mapped, subsets, seeds, 6, torch.get_num_threads())["streamed waves"]
    cut = fit_probes(mapped, y, x, y, subsets, seed=seeds, memory=budget, **SETTINGS)
    whole = fit_probes(mapped.astype(np.float32), y, x, y, subsets, seed=seeds, **SETTINGS)
    np.testing.assert_allclose(cut.weight, whole.weight, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("kind", ["waves", "streamed", "streamed waves"])
def test_cuda_memory_stays_within_the_budget(kind):
    x, y = make_task(n=20_000, width=1024, n_classes=200)
    subsets, seeds = grid(1024, (100, 500, 1024), (1, 2, 3, 4, 5), lonely=False)
    settings = {"seed": seeds, "epochs": 2, "batch_size": 256, "device": "cuda"}
    groups = group_probes(subsets, seeds)
    single = max(needs(groups[0].split(5), 200, 256))
    everything = sum(needs(groups, 200, 256))
    budget = {"waves": x.nbytes + 2 * single, "streamed": everything, "streamed waves": 2 * single}[kind]
    whole = fit_probes(x, y, x[:500], y[:500], subsets, **settings)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cut = fit_probes(x, y, x[:500], y[:500], subsets, memory=budget, **settings)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * budget
    np.testing.assert_allclose(cut.accuracy, whole.accuracy, atol=0.01)
