"""How each sample fares as a subset of the dimensions grows: one factorisation, or sweep of products, for all sizes.

A score is a number per sample whose mean is the metric, so that a subset and the full vector can be compared sample by
sample. Train samples are scored out of sample: by leaving each one out, in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from sklearn.utils.class_weight import compute_sample_weight

PENALTIES = np.logspace(-5, 1, 7)  # of ridge, times the number of samples; features have variance 1
SCORED = 4000  # train samples that are left out in turn, at most
CHUNK = 1 << 27  # numbers in the largest block of similarities


def gram_of(x: np.ndarray) -> np.ndarray:
    """Return X'X [D, D] in float64: rounded to float32, that of fewer samples than dimensions may have no factor."""
    return sum((part := x[at : at + 1024].astype(float)).T @ part for at in range(0, len(x), 1024))


class Ridge:
    """Ridge regression on standardised columns: accuracy of the highest output (classification), or R2 (regression).

    With L L' = X'X + penalty for columns in an order, the factor of the first k of them is the leading block of L. So
    A = L^-1 X' and Z = L^-1 X'Y give the fit of every prefix, A[:k]' Z[:k], and its leverages, the squares of A[:k]
    summed, and these the residuals with each sample left out (Hastie, Tibshirani and Friedman 2009, eq. 7.64).

    Parameters
    ----------
    x, x_test : float arrays [n, D] and [m, D], the second may have no rows
    y, y_test : labels 0 .. C-1, or numbers if not `classify`
    classify : bool
    balanced : bool
        Classes count alike, whatever their size.
    """

    def __init__(self, x, y, x_test, y_test, *, classify: bool = True, balanced: bool = False):
        self.classify, self.y, self.y_test = classify, y, y_test
        targets = np.eye(int(y.max()) + 1)[y] if classify else np.asarray(y, float)[:, None]
        self.mean = targets.mean(axis=0)
        self.targets = (targets - self.mean).astype(np.float32)
        shift, scale = x.mean(axis=0, dtype=float), x.std(axis=0, dtype=float)
        scale[scale < 1e-12 * max(scale.max(), 1e-300)] = np.inf  # a constant column says nothing
        self.x, self.x_test = (((part - shift) / scale).astype(np.float32) for part in (x, x_test))
        self.gram = gram_of(self.x)
        self.products = (self.x.T @ self.targets).astype(float)
        weights = (compute_sample_weight("balanced", part) if balanced and len(part) else 1.0 for part in (y, y_test))
        self.weights = [np.broadcast_to(weight, len(part)) for weight, part in zip(weights, (y, y_test), strict=True)]
        self.penalties: dict[int, float] = {}  # by size, as chosen so far
        rows = np.arange(len(x))
        self.rows = rows if len(x) <= SCORED else np.sort(np.random.default_rng(0).permutation(rows)[:SCORED])

    @property
    def width(self) -> int:
        """Number of dimensions, D."""
        return self.x.shape[1]

    def basis(self) -> np.ndarray:
        """Return the vectors whose principal components are the task's."""
        return self.x

    def rotated(self, components) -> Ridge:
        """Return the same samples in other directions [D, k], such as principal components."""
        other = object.__new__(Ridge)
        other.__dict__.update(self.__dict__, penalties={})
        other.x, other.x_test = self.x @ components, self.x_test @ components
        other.gram = gram_of(other.x)
        other.products = (other.x.T @ self.targets).astype(float)
        return other

    def choose(self, columns, sizes: Sequence[int]) -> None:
        """Choose the penalty of each size: the one of least squared error on samples left out."""
        errors = np.array([[error for error, _ in self._sweep(columns, sizes, penalty)] for penalty in PENALTIES])
        self.penalties.update(zip(sizes, PENALTIES[errors.argmin(axis=0)], strict=True))

    def scores(self, columns, sizes: Sequence[int], *, test: bool = False) -> np.ndarray:
        """Return scores [sizes, samples] of the first so many of `columns`: of train left out one by one, or of test.

        A size has the penalty of the next larger one of `choose`.
        """
        penalties = [self.penalties[min(chosen for chosen in self.penalties if chosen >= size)] for size in sizes]
        out = np.empty((len(sizes), len(self.x_test if test else self.rows)), np.float32)
        for penalty in {*penalties}:
            mine = [at for at, own in enumerate(penalties) if own == penalty]
            sweep = self._sweep(columns, [sizes[at] for at in mine], penalty, test=test)
            for at, (_, outputs) in zip(mine, sweep, strict=True):
                out[at] = self._score(outputs, test)
        return out

    def _score(self, outputs: np.ndarray, test: bool) -> np.ndarray:
        y, weights = (self.y_test, self.weights[1]) if test else (self.y[self.rows], self.weights[0][self.rows])
        if self.classify:
            return (outputs.argmax(axis=1) == y) * weights
        return 1 - (outputs[:, 0] - y) ** 2 / np.var(y)

    def _sweep(self, columns, sizes, penalty: float, test: bool = False):
        """Yield squared error and outputs for each of the rising sizes: of train left out, or (no error) of test."""
        kept = columns[: sizes[-1]]
        gram = self.gram[np.ix_(kept, kept)]
        gram.flat[:: len(kept) + 1] += penalty * len(self.x)
        factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        z = solve_triangular(factor, self.products[kept], lower=True, check_finite=False).astype(np.float32)
        factor = factor.astype(np.float32)
        part = self.x_test if test else self.x[self.rows]
        a = solve_triangular(factor, part[:, kept].T, lower=True, check_finite=False)
        targets = self.targets[self.rows]
        fit, leverage, before = np.zeros((len(part), z.shape[1]), np.float32), np.full(len(part), 1 / len(self.x)), 0
        for size in sizes:
            fit += a[before:size].T @ z[before:size]
            if test:
                yield np.nan, fit + self.mean
            else:
                leverage += np.einsum("ij,ij->j", a[before:size], a[before:size])
                residuals = (targets - fit) / np.maximum(1 - leverage, 1e-6)[:, None]
                yield np.mean(residuals**2), targets - residuals + self.mean
            before = size


class Similarity:
    """Cosine similarity of queries with a corpus, after the cut: nothing is trained.

    Parameters
    ----------
    queries, corpus : float arrays [q, D] and [n, D]
    itself : int array [q], optional
        The row of the corpus that a query is, which is left out.
    """

    def __init__(self, queries, corpus, itself=None):
        self.queries, self.corpus = (np.ascontiguousarray(part, np.float32) for part in (queries, corpus))
        self.itself, self.tested = itself, self

    @property
    def width(self) -> int:
        """Number of dimensions, D."""
        return self.corpus.shape[1]

    def tested_by(self, other: Similarity) -> Similarity:
        """Score test by another's queries and corpus; returns itself."""
        self.tested = other
        return self

    def basis(self) -> np.ndarray:
        """Return the vectors whose principal components are the task's."""
        return self.corpus

    def rotated(self, components) -> Similarity:
        """Return the same vectors in other directions [D, k]."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.queries, other.corpus = self.queries @ components, self.corpus @ components
        other.tested = other if self.tested is self else self.tested.rotated(components)
        return other

    def choose(self, columns, sizes) -> None:
        """Do nothing: there is no penalty."""

    def scores(self, columns, sizes: Sequence[int], *, test: bool = False) -> np.ndarray:
        """Return scores [sizes, queries] of the first so many of `columns`."""
        if test and self.tested is not self:
            return self.tested.scores(columns, sizes)
        out = np.empty((len(sizes), len(self.queries)), np.float32)
        step = max(1, CHUNK // len(self.corpus))
        for start in range(0, len(self.queries), step):
            rows = np.arange(start, min(start + step, len(self.queries)))
            products, lengths = np.zeros((len(rows), len(self.corpus)), np.float32), np.zeros(len(self.corpus))
            before = 0
            for at, size in enumerate(sizes):
                block = columns[before:size]
                part = self.corpus[:, block]
                products += self.queries[np.ix_(rows, block)] @ part.T
                lengths += np.einsum("ij,ij->i", part, part)
                similar = products / np.sqrt(np.maximum(lengths, 1e-30)).astype(np.float32)
                if self.itself is not None:
                    similar[np.arange(len(rows)), self.itself[rows]] = -np.inf
                out[at, rows] = self._score(similar, rows)
                before = size
        return out

    def _nearest(self, similar: np.ndarray, k: int) -> np.ndarray:
        return np.argpartition(-similar, k - 1, axis=1)[:, :k]


class Vote(Similarity):
    """Right or wrong by the majority of the k nearest neighbours; of classes with equal votes the nearer one wins."""

    def __init__(self, queries, labels, corpus, corpus_labels, k: int, itself=None):
        super().__init__(queries, corpus, itself)
        self.labels, self.corpus_labels, self.k = labels, corpus_labels, k

    def _score(self, similar, rows):
        nearest = self._nearest(similar, self.k)
        closeness = np.take_along_axis(similar, nearest, axis=1)
        votes = np.zeros((len(rows), int(self.corpus_labels.max()) + 1))
        # A vote is 1 and a little for closeness, too little for any number of them to outweigh one.
        np.add.at(votes, (np.arange(len(rows))[:, None], self.corpus_labels[nearest]), 1 + closeness / (8 * self.k))
        return votes.argmax(axis=1) == self.labels[rows]


class Overlap(Similarity):
    """Share of the k nearest neighbours by all dimensions that are among the k nearest by some of them."""

    def __init__(self, queries, corpus, k: int, itself=None):
        super().__init__(queries, corpus, itself)
        self.k, self.wanted = k, None
        self._found = np.empty((len(queries), k), int)
        self.scores(np.arange(self.width), [self.width])
        self.wanted = self._found

    def _score(self, similar, rows):
        nearest = self._nearest(similar, self.k)
        if self.wanted is None:
            self._found[rows] = nearest
            return np.ones(len(rows))
        n = len(self.corpus)
        both = np.isin(nearest + n * rows[:, None], self.wanted[rows] + n * rows[:, None])
        return both.mean(axis=1)


class Retrieval(Similarity):
    """How high the relevant rows of the corpus come: recall@k, nDCG@10 or reciprocal rank, of binary relevance.

    Parameters
    ----------
    relevant : int array [pairs, 2]
        Query and row of the corpus that answers it, sorted by query.
    metric : {"recall", "ndcg@10", "mrr"}
    k : int
        Of recall.
    """

    def __init__(self, queries, corpus, relevant, metric: str, k: int = 10):
        super().__init__(queries, corpus)
        self.relevant, self.metric, self.k = relevant, metric, k

    def _score(self, similar, rows):
        start, end = np.searchsorted(self.relevant[:, 0], [rows[0], rows[-1] + 1])
        query, document = self.relevant[start:end, 0] - rows[0], self.relevant[start:end, 1]
        ranks = np.empty(end - start)
        for at in range(0, end - start, len(rows)):  # a block of similarities at a time
            part = slice(at, at + len(rows))
            own = similar[query[part], document[part]][:, None]
            # Among equals a document comes in the middle: an order by chance would flatter or harm it.
            above, equal = (similar[query[part]] > own).sum(axis=1), (similar[query[part]] == own).sum(axis=1)
            ranks[part] = 1 + above + (equal - 1) / 2
        found = np.bincount(query, minlength=len(rows)).astype(float)
        if self.metric == "mrr":
            best = np.zeros(len(rows))
            np.maximum.at(best, query, 1 / ranks)
            return best
        if self.metric == "ndcg@10":
            ideal = np.cumsum(1 / np.log2(2 + np.arange(10)))
            gains = (ranks <= 10) / np.log2(1 + ranks)
            return np.bincount(query, gains, len(rows)) / ideal[np.minimum(found, 10).astype(int) - 1]
        return np.bincount(query, ranks <= self.k, len(rows)) / found
