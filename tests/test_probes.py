"""Batched probes against separate torch loops, ridge against scikit-learn, and what bad input says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dr_utils.probes import choose_alpha, fit_probes, fit_ridge
from dr_utils.probes.masked import find_chunks, initial_probe, sample_order


def make_task(n=120, width=24, n_classes=4, seed=0, n_test=60):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_classes, width))
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n + n_test - n_classes)])
    x = np.maximum(rng.normal(size=(n + n_test, width)) + centres[y], 0).astype(np.float32)
    return x[:n], y[:n], x[n:], y[n:]


def nested(width, lengths, seeds):
    subsets, probe_seeds = [], []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(width)
        subsets += [order[:k] for k in lengths]
        probe_seeds += [seed] * len(lengths)
    return subsets, probe_seeds


def separate_loop(
    x, y, subset, n_classes, seed, *, epochs, lr, momentum, weight_decay, batch_size, step_epochs, gamma, x_epochs=None,
    every_epoch=False,
):  # fmt: skip
    """One probe the ordinary way: nn.Linear, autograd, optim.SGD, StepLR."""
    layer = torch.nn.Linear(len(subset), n_classes)
    weight, bias = initial_probe(len(subset), n_classes, seed)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    optimiser = torch.optim.SGD(layer.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_epochs, gamma)
    labels, snapshots = torch.as_tensor(y), []
    for epoch in range(epochs):
        shown = torch.as_tensor(x_epochs(epoch) if x_epochs else x)
        features = shown[:, torch.as_tensor(subset)]
        for rows in sample_order(len(x), epoch, seed).split(batch_size):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
        snapshots.append((layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()))
    return snapshots if every_epoch else snapshots[-1]


@pytest.mark.parametrize("in_waves", [False, True])
@pytest.mark.parametrize(
    ("n", "width", "n_classes", "batch_size", "memory"),
    [(120, 24, 4, 32, 15_000), (97, 7, 3, 256, 35_000), (300, 130, 11, 64, 200_000)],
)
def test_batched_probes_equal_separate_loops(n, width, n_classes, batch_size, memory, in_waves):
    x, y, x_test, y_test = make_task(n, width, n_classes, seed=n)
    lengths = sorted({1, max(1, width // 5), width // 2, width})
    subsets, seeds = nested(width, lengths, seeds=(1, 2, 3))
    subsets += [np.array([width - 1, 0]), subsets[-1]]  # a prefix of no other, and one that occurs twice
    seeds += [2, seeds[-1]]
    settings = {
        "epochs": 5,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": batch_size,
        "step_epochs": 2,
        "gamma": 0.1,
    }
    result = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, memory=memory if in_waves else None, **settings)
    for probe, (subset, seed) in enumerate(zip(subsets, seeds, strict=True)):
        weight, bias = separate_loop(x, y, subset, n_classes, seed, **settings)
        np.testing.assert_allclose(result.weights[probe], weight, atol=1e-5)
        np.testing.assert_allclose(result.bias[probe], bias, atol=1e-5)
        guess = (x_test[:, subset] @ weight.T + bias).argmax(1)
        assert result.accuracy[probe] == pytest.approx((guess == y_test).mean())
        for c in range(n_classes):
            assert result.per_class_accuracy[probe, c] == pytest.approx(
                (guess == y_test)[y_test == c].mean(), nan_ok=True
            )


SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 32, "step_epochs": 2, "gamma": 0.1}


@pytest.mark.parametrize(("n", "width", "n_classes"), [(120, 24, 4), (90, 9, 3)])
def test_features_of_each_epoch_equal_separate_loops_on_them(n, width, n_classes):
    """As with images that are augmented anew every epoch: one pass feeds all probes."""
    x, y, x_test, y_test = make_task(n, width, n_classes, seed=n)
    noise = np.random.default_rng(1).normal(scale=0.3, size=(5, *x.shape)).astype(np.float32)
    asked = []

    def x_epochs(epoch):
        asked.append(epoch)
        return x + noise[epoch]

    subsets, seeds = nested(width, (2, width // 2, width), seeds=(1, 4))
    result = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=5, x_epochs=x_epochs, **SETTINGS)
    assert asked == [0, 1, 2, 3, 4]
    for probe, (subset, seed) in enumerate(zip(subsets, seeds, strict=True)):
        weight, bias = separate_loop(x, y, subset, n_classes, seed, epochs=5, x_epochs=x_epochs, **SETTINGS)
        np.testing.assert_allclose(result.weights[probe], weight, atol=1e-5)
        np.testing.assert_allclose(result.bias[probe], bias, atol=1e-5)
    unchanged = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=5, x_epochs=lambda epoch: x, **SETTINGS)
    plain = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=5, **SETTINGS)
    np.testing.assert_array_equal(unchanged.weight, plain.weight)


def test_half_precision_features_are_converted_batch_by_batch():
    x, y, x_test, y_test = make_task(seed=8)
    subsets, seeds = nested(24, (3, 12, 24), (1, 2))
    half = fit_probes(x.astype(np.float16), y, x_test, y_test, subsets, seed=seeds, epochs=4)
    rounded = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(
        half.weight, fit_probes(rounded, y, x_test, y_test, subsets, seed=seeds, epochs=4).weight
    )


def test_held_out_epoch_is_the_first_best_of_a_separate_loop():
    from sklearn.model_selection import train_test_split

    x, y, x_test, y_test = make_task(200, 20, 4, seed=11)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 4, len(y)), y)  # noise, so that the last epoch is not best
    subsets, seeds = nested(20, (2, 8, 20), seeds=(1, 2, 3))
    settings = SETTINGS | {"step_epochs": 20}
    result = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=8, held_out=0.2, **settings)
    kept, out = train_test_split(np.arange(200), test_size=0.2, random_state=0, stratify=y)
    kept = np.sort(kept)
    chosen = []
    for probe, (subset, seed) in enumerate(zip(subsets, seeds, strict=True)):
        found = separate_loop(x[kept], y[kept], subset, 4, seed, epochs=8, every_epoch=True, **settings)
        scores = [((x[out][:, subset] @ w.T + b).argmax(1) == y[out]).mean() for w, b in found]
        chosen.append(int(np.argmax(scores)))
        np.testing.assert_allclose(result.weights[probe], found[chosen[-1]][0], atol=1e-5)
        np.testing.assert_allclose(result.bias[probe], found[chosen[-1]][1], atol=1e-5)
    assert len(set(chosen)) > 1, "the test tells nothing where every probe ends with the same epoch"
    for wrong in (1.0, -0.1, 0.005):  # scikit-learn says what is wrong
        with pytest.raises(ValueError, match="test_size"):
            fit_probes(x, y, x_test, y_test, subsets, seed=seeds, held_out=wrong)


def test_a_probe_does_not_depend_on_its_company():
    x, y, x_test, y_test = make_task(seed=3)
    subsets, seeds = nested(24, (2, 9, 24), (1, 2, 5))
    together = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=4)
    for probe in (1, 5, 8):
        alone = fit_probes(x, y, x_test, y_test, [subsets[probe]], seed=seeds[probe], epochs=4)
        np.testing.assert_allclose(alone.weights[0], together.weights[probe], atol=1e-5)


def test_dense_weight_places_columns_and_zeros():
    x, y, x_test, y_test = make_task(seed=5)
    subset = np.array([7, 2, 19])
    result = fit_probes(x, y, x_test, y_test, [subset, np.arange(24)], epochs=2)
    assert result.weight.shape == (2, 4, 24)
    np.testing.assert_array_equal(result.weight[0][:, subset], result.weights[0])
    assert not result.weight[0][:, np.setdiff1d(np.arange(24), subset)].any()
    scores = x_test @ result.weight[0].T + result.bias[0]
    assert result.accuracy[0] == pytest.approx((scores.argmax(1) == y_test).mean())


@pytest.mark.parametrize(("n", "width", "alpha"), [(150, 20, 1.0), (40, 64, 0.3), (90, 1, 10.0)])
def test_ridge_equals_scikit_learn(n, width, alpha):
    x, y, x_test, y_test = make_task(n, width, 5, seed=width)
    lengths = sorted({1, max(1, width // 3), width})
    subsets, _ = nested(width, lengths, (1, 2))
    result = fit_ridge(x, y, x_test, y_test, subsets, alpha=alpha)
    for probe, subset in enumerate(subsets):
        reference = Ridge(alpha=alpha).fit(x[:, subset].astype(np.float64), np.eye(5)[y])
        np.testing.assert_allclose(result.weights[probe], reference.coef_, atol=1e-8)
        np.testing.assert_allclose(result.bias[probe], reference.intercept_, atol=1e-8)
        scores = reference.predict(x_test[:, subset].astype(np.float64))
        top = np.sort(scores, axis=1)
        # Samples whose features are all zero tie between classes of equal size: either guess is right.
        clear = top[:, -1] - top[:, -2] > 1e-9
        sure = (scores.argmax(1) == y_test)[clear].sum()
        assert sure <= round(result.accuracy[probe] * len(y_test)) <= sure + (~clear).sum()


@pytest.mark.parametrize(("n", "width"), [(80, 80), (200, 30)])
def test_chosen_alpha_is_the_best_of_scikit_learns_on_held_out_train_samples(n, width):
    x, y, *_ = make_task(n, width, 4, seed=n)
    order = np.random.default_rng(0).permutation(n)
    held = np.concatenate([order[y[order] == c][: int(0.2 * (y == c).sum())] for c in range(4)])
    rest = np.setdiff1d(order, held)
    centred = (x[rest] - x[rest].mean(0)).astype(np.float64)
    scale = (centred**2).sum() / width
    best = {}
    for relative in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2):
        model = Ridge(alpha=relative * scale).fit(x[rest].astype(np.float64), np.eye(4)[y[rest]])
        best[relative] = (model.predict(x[held].astype(np.float64)).argmax(1) == y[held]).mean()
    winner = max(best, key=lambda relative: (best[relative], relative))
    assert len(set(best.values())) > 1, "the candidates must differ for this test to mean something"
    assert choose_alpha(x, y) == pytest.approx(winner * scale, rel=1e-6)


def test_alpha_without_samples_to_hold_out_is_the_scale_of_the_features():
    x, y, *_ = make_task(8, 6, 4)
    centred = (x - x.mean(0)).astype(np.float64)
    assert choose_alpha(x, y) == pytest.approx((centred**2).sum() / 6, rel=1e-5)


def test_chunks_join_prefixes_of_one_seed_that_are_not_far_shorter():
    order = np.random.default_rng(0).permutation(700)
    subsets = [order[:1], order, order[:90], order, order[:8], order[1:3], order[:60]]
    found = {tuple(sorted(chunk.probes)): chunk.columns for chunk in find_chunks(subsets, [1] * 7)}
    assert set(found) == {(1, 2, 3), (0, 4, 6), (5,)}
    np.testing.assert_array_equal(found[1, 2, 3], np.arange(700))
    np.testing.assert_array_equal(found[0, 4, 6], np.sort(order[:60]))
    assert len(find_chunks(subsets[1:3] * 2, [1, 2] * 2)) == 2


def test_subsets_may_be_masks():
    x, y, x_test, y_test = make_task()
    mask = np.isin(np.arange(24), [3, 5])
    for fit in (fit_probes, fit_ridge):
        np.testing.assert_array_equal(
            fit(x, y, x_test, y_test, [mask]).weight, fit(x, y, x_test, y_test, [[3, 5]]).weight
        )


def test_score_on_a_second_set():
    x, y, x_test, y_test = make_task(seed=8)
    result = fit_probes(x, y, x_test, y_test, [np.arange(24)], epochs=3)
    again = result.on(x_test[::-1], y_test[::-1])
    assert again.accuracy[0] == result.accuracy[0] == result.correct.mean()
    np.testing.assert_array_equal(again.correct[:, ::-1], result.correct)
    np.testing.assert_allclose(again.per_class_accuracy, result.per_class_accuracy)
    with pytest.raises(ValueError, match="fitted on 24 columns"):
        result.on(x_test[:, :5], y_test)


def test_divergence_is_said_and_leaves_no_nan():
    x, y, x_test, y_test = make_task(seed=9)
    with pytest.warns(RuntimeWarning, match="1 of 1 probes diverged"):
        result = fit_probes(x * 1e18, y, x_test, y_test, [np.arange(24)], epochs=30, lr=1e20)
    assert np.isfinite(result.weight).all() and np.isfinite(result.accuracy).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t[0] * np.nan, *t[1:]), "NaN or infinite"),
        (lambda t: (np.ones_like(t[0]), *t[1:]), "constant"),
        (lambda t: (t[0], t[1][:-1], *t[2:]), "labels do not match the features"),
        (lambda t: (t[0][:3], np.array([0, 1, 3]), *t[2:]), r"1 of 4 classes are absent from train \(2\)"),
        (lambda t: (t[0], np.where(t[1] == 2, 1, t[1]), *t[2:]), r"absent from train \(2\)"),
        (lambda t: (*t[:2], t[2][:, :5], t[3]), "differ in width"),
        (lambda t: (t[0], t[1].astype(float), *t[2:]), "must be integers"),
    ],
)
@pytest.mark.parametrize("fit", [fit_probes, fit_ridge])
def test_bad_input_is_refused(fit, change, message):
    with pytest.raises(ValueError, match=message):
        fit(*change(make_task()), [np.arange(5)])


@pytest.mark.parametrize("subset", [[], [3, 3], [24], [-1]])
def test_bad_subsets_are_refused(subset):
    with pytest.raises(ValueError, match=r"distinct neuron indices 0 \.\. 23"):
        fit_probes(*make_task(), [np.array(subset, dtype=int)])


def test_seed_list_must_match():
    with pytest.raises(ValueError, match="2 subsets, 3 seeds"):
        fit_probes(*make_task(), [np.arange(3), np.arange(4)], seed=[1, 2, 3])


def test_ridge_needs_no_torch():
    code = "import sys, dr_utils.probes as p; p.fit_ridge([[0.], [1.]], [0, 1], [[0.]], [0], [[0]]); "
    code += "p.fit_probes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_cuda_agrees_with_cpu():
    x, y, x_test, y_test = make_task(300, 64, 5)
    subsets, seeds = nested(64, (4, 20, 64), (1, 2))
    cpu = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=5)
    cuda = fit_probes(x, y, x_test, y_test, subsets, seed=seeds, epochs=5, device="cuda")
    np.testing.assert_allclose(cpu.weight, cuda.weight, atol=1e-4)


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "step_epochs"])
def test_settings_below_one_are_refused(setting):
    with pytest.raises(ValueError, match="must be at least 1"):
        fit_probes(*make_task(), [np.arange(3)], **{setting: 0})


def test_a_penalty_must_be_positive():
    with pytest.raises(ValueError, match="alpha must be above 0"):
        fit_ridge(*make_task(), [np.arange(3)], alpha=0.0)
