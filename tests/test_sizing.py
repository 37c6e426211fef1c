"""Sizes for a task against brute force, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import ndcg_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize

from dr_utils import critical_mass
from dr_utils.sizing import answer, scores


def labelled(seed: int, n: int = 40, width: int = 9, classes: int = 3):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, width)) * rng.uniform(0.1, 5, width) + rng.normal(size=(classes, width))[y]
    return x.astype(np.float32), y


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classify", [True, False])
def test_leaving_each_sample_out_is_as_many_fits_of_scikit_learn(seed, classify):
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(12, 40)), int(rng.integers(3, 50))  # more dimensions than samples, too
    x, y = labelled(seed, n, width)
    y = y if classify else x[:, 0] + rng.normal(size=n)
    x_test, y_test = labelled(seed + 100, 15, width)
    y_test = y_test if classify else x_test[:, 0].astype(float)
    scorer = scores.Ridge(x, y, x_test, y_test, classify=classify)
    columns, sizes = rng.permutation(width), sorted({1, width // 2 or 1, width})
    scorer.penalties = {width: float(rng.choice(scores.PENALTIES[3:]))}
    found, on_test = scorer.scores(columns, sizes), scorer.scores(columns, sizes, test=True)
    scaled = (x - x.mean(0)) / x.std(0)
    targets = np.eye(3)[y] if classify else y
    for at, size in enumerate(sizes):
        kept = columns[:size]
        ridge = SklearnRidge(alpha=scorer.penalties[width] * n)
        for i in range(n):
            others = np.arange(n) != i
            output = ridge.fit(scaled[others][:, kept], targets[others]).predict(scaled[[i]][:, kept])[0]
            expected = float(output.argmax() == y[i]) if classify else 1 - (output - y[i]) ** 2 / y.var()
            assert found[at, i] == pytest.approx(expected, abs=2e-3)
        output = ridge.fit(scaled[:, kept], targets).predict(((x_test - x.mean(0)) / x.std(0))[:, kept])
        expected = output.argmax(1) == y_test if classify else 1 - (output - y_test) ** 2 / y_test.var()
        np.testing.assert_allclose(on_test[at], expected, atol=2e-3)


def test_balanced_accuracy_counts_classes_alike():
    x, y = labelled(0, 60)
    kept = np.flatnonzero((y > 0) | (np.arange(60) < 12))
    scorer = scores.Ridge(x[kept], y[kept], x[:0], y[:0], balanced=True)
    scorer.choose(np.arange(9), [9])
    right = scorer.scores(np.arange(9), [9])[0]
    plain = scores.Ridge(x[kept], y[kept], x[:0], y[:0])
    plain.penalties = scorer.penalties
    by_class = [plain.scores(np.arange(9), [9])[0][y[kept] == c].mean() for c in range(3)]
    assert right.mean() == pytest.approx(np.mean(by_class), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    x, y = labelled(seed, int(rng.integers(20, 60)), 12)
    queries, asked = labelled(seed + 50, 17, 12)
    k, columns, sizes = int(rng.integers(1, 8)), rng.permutation(12), [2, 5, 12]
    voted = scores.Vote(queries, asked, x, y, k).scores(columns, sizes)
    shared = scores.Overlap(x, x, k, np.arange(len(x))).scores(columns, sizes)

    def nearest(part):
        found = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(part).kneighbors(part)[1]
        return [[j for j in row if j != i][:k] for i, row in enumerate(found)]

    for at, size in enumerate(sizes):
        part = x[:, columns[:size]]
        # Ties are broken by closeness here and by label there: compare where one class has most votes.
        sklearn = KNeighborsClassifier(k, metric="cosine").fit(part, y)
        votes = sklearn.predict_proba(queries[:, columns[:size]])
        clear = (votes == votes.max(1, keepdims=True)).sum(1) == 1
        assert ((votes.argmax(1) == asked) == voted[at])[clear].all()
        expected = [len(set(a) & set(b)) / k for a, b in zip(nearest(part), nearest(x), strict=True)]
        np.testing.assert_allclose(shared[at], expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_metrics_are_their_definitions(seed):
    rng = np.random.default_rng(seed)
    corpus, queries = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(9, 8)).astype(np.float32)
    relevant = np.unique(np.stack([rng.integers(0, 9, 40), rng.integers(0, 50, 40)], 1), axis=0)
    relevant = np.unique(np.concatenate([relevant, np.stack([np.arange(9), rng.integers(0, 50, 9)], 1)]), axis=0)
    wanted = np.zeros((9, 50))
    wanted[tuple(relevant.T)] = 1
    columns, sizes = rng.permutation(8), [1, 4, 8]
    for metric in ("recall", "ndcg@10", "mrr"):
        found = scores.Retrieval(queries, corpus, relevant, metric, 5).scores(columns, sizes)
        for at, size in enumerate(sizes[1:], start=1):
            similar = queries[:, columns[:size]] @ normalize(corpus[:, columns[:size]]).T
            ranked = np.take_along_axis(wanted, np.argsort(-similar, 1), 1)
            expected = {
                "recall": ranked[:, :5].sum(1) / wanted.sum(1),
                "mrr": 1 / (1 + ranked.argmax(1)),
                "ndcg@10": [ndcg_score(wanted[[i]], similar[[i]], k=10) for i in range(9)],
            }[metric]
            np.testing.assert_allclose(found[at], expected, atol=1e-5)


def test_crossings_and_bounds_in_closed_form():
    sizes = answer.sizes_to(100)
    assert sizes[:12] == list(range(1, 13)) and sizes[-1] == 100
    assert max(np.divide(sizes[13:], sizes[12:-1])) < 1.13
    assert answer.crossing(sizes, np.log(sizes) - np.log(37.5)) == pytest.approx(37.5, rel=0.01)
    assert (
        np.isnan(answer.crossing(sizes, np.full(len(sizes), -0.1)))
        and answer.crossing(sizes, np.ones(100)[: len(sizes)]) == 1
    )
    rng = np.random.default_rng(0)
    full, part = rng.random(50), rng.random((1, 4, 50))
    mean, low = answer.bounds(part, full, 0.9, 0.95)
    gain = part[0] - 0.9 * full
    assert mean[0] == pytest.approx(gain.mean(), abs=1e-6)
    spread = gain.mean(1).var(ddof=1) * 1.25 + gain.mean(0).var(ddof=1) / 50
    assert (mean - low)[0] == pytest.approx(2.353363 * np.sqrt(spread), rel=1e-4)  # t of 3 degrees of freedom


def spread_thinly(n: int, rng, width: int = 120, classes: int = 6):
    """Every dimension says a little about the class, each as much as any other."""
    y = rng.permutation(np.arange(n) % classes)
    centres = np.random.default_rng(9).normal(size=(classes, width)) * 0.35
    return (centres[y] + rng.normal(size=(n, width))).astype(np.float32), y


def test_both_sizes_keep_what_they_say_on_samples_never_seen():
    """The mean size is near the smallest that keeps the share, the promised one keeps it nearly always."""
    rng = np.random.default_rng(0)
    x_test, y_test = spread_thinly(20_000, rng)
    kept, promised, empty = [], [], 0
    for _ in range(12):
        x, y = spread_thinly(500, rng)
        found = critical_mass(x, y, x_test, y_test, keep=[0.9], seeds=6).recommendation().iloc[0]
        kept.append(found.kept)
        empty += np.isnan(found.promised)
        promised.append(found.promised_kept)
    assert np.mean(kept) == pytest.approx(0.9, abs=0.02)
    assert empty < 6 and np.nanmin(promised) > 0.88
    assert np.mean(np.array(promised)[np.isfinite(promised)] >= 0.9) >= 0.9


@pytest.mark.parametrize(
    ("task", "y"), [("knn", "labels"), ("neighbours", None), ("regression", "numbers"), ("classification", "labels")]
)
def test_every_task_has_an_answer(task, y):
    rng = np.random.default_rng(1)
    x, labels = spread_thinly(150, rng, 30)
    x_test, labels_test = spread_thinly(80, rng, 30)
    given = {"labels": (labels, labels_test), "numbers": (x[:, :9].sum(1), x_test[:, :9].sum(1)), None: (None, None)}[y]
    found = critical_mass(x, given[0], x_test, given[1], task=task, keep=[0.5, 0.9], seeds=3, k=5)
    table = found.recommendation()
    assert list(table.columns) == ["keep", "neurons", "kept", "promised", "promised_kept"]
    assert table.neurons.is_monotonic_increasing and (table.neurons <= 30).all()
    assert (table.promised.dropna() >= table.neurons[table.promised.notna()]).all()
    assert np.allclose(table.kept, table.keep, atol=0.25)
    assert set(found.curve.selection) == {"random", "first", "pca"} and "of 30" in found.sentence().lower()


def test_many_more_dimensions_than_directions():
    rng = np.random.default_rng(3)
    x, y = spread_thinly(200, rng, 20)
    x = x @ (1 + 0.1 * rng.normal(size=(20, 1500))).astype(np.float32)  # rank 20, and one direction dominates
    x[:, ::100] = 1.0  # silent ones, too
    found = critical_mass(x, y, keep=[0.8], seeds=3).recommendation().iloc[0]
    assert 1 <= found.neurons < 100 and np.isnan(found.kept)


def test_retrieval_finds_what_answers_a_query():
    rng = np.random.default_rng(2)
    corpus = rng.normal(size=(300, 40)).astype(np.float32)
    queries, held_out = (
        corpus[rows] + 0.8 * rng.normal(size=(100, 40)) for rows in (np.arange(100), np.arange(100, 200))
    )
    pairs = np.stack([np.arange(100)] * 2, 1)
    found = critical_mass(queries, pairs, held_out, pairs + [0, 100], corpus=corpus, task="retrieval", metric="mrr",
                          keep=[0.8], seeds=4)  # fmt: skip
    row = found.recommendation().iloc[0]
    assert 5 < row.neurons < 40 and row.kept == pytest.approx(0.8, abs=0.08) and found.full > 0.7


X, Y = labelled(3)
PAIRS = np.stack([np.arange(40)] * 2, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "ranking"}, "unknown task 'ranking'"),
        ({"metric": "f1"}, "unknown metric of classification 'f1'"),
        ({"y_train": Y[:-1]}, "train labels do not match"),
        ({"y_train": np.zeros(40, int)}, "one class only"),
        ({"y_train": np.r_[3, Y[1:]]}, "class 3 has one train sample"),
        ({"x_train": np.where(np.arange(360).reshape(40, 9) == 20, np.nan, X)}, "train features hold 1 NaN"),
        ({"x_test": X[:, :4], "y_test": Y}, "train and test features differ in width: 9 and 4"),
        ({"keep": [1.2]}, "must lie in"),
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"confidence": 0}, "confidence must lie in"),
        ({"task": "knn", "k": 40}, "k must lie between 1 and 39"),
        ({"task": "retrieval", "y_train": PAIRS}, "retrieval needs a corpus"),
        ({"task": "retrieval", "y_train": PAIRS + [0, 5], "corpus": X}, "relevance names row 44 of the corpus"),
        ({"task": "retrieval", "y_train": PAIRS[:-1], "corpus": X}, "1 of 40 queries have no relevant row"),
        ({"task": "retrieval", "y_train": Y, "corpus": X}, "relevance must be pairs"),
        ({"task": "regression", "y_train": np.full(40, np.nan)}, "train values must be 40 finite numbers"),
        ({"task": "regression", "y_train": np.random.default_rng(7).normal(size=40)}, "something only above 0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        critical_mass(**{"x_train": X, "y_train": Y} | given)
