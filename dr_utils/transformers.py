"""Scikit-learn transformers that keep a random subset of neurons: of a given size, or of the size a task needs."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.feature_selection import SelectorMixin
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import check_cv, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from dr_utils import subsets
from dr_utils.checks import check_delta
from dr_utils.redundancy import critical_fraction, diffused_redundancy

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class _NeuronSelector(SelectorMixin, BaseEstimator):
    """Keeps the columns `indices_`, in the layer's own order."""

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return np.isin(np.arange(self.n_features_in_), self.indices_)


class NeuronSubset(_NeuronSelector):
    """Keep a random subset of a layer's neurons.

    The subset is that of `dr_utils.subsets.random_subsets`, so a pipeline sees the very neurons of the suite.
    Columns keep the order they have in the layer.

    Parameters
    ----------
    fraction : float, optional
        Share of the neurons kept, in (0, 1]. Half of them if neither this nor `n_neurons` is given.
    n_neurons : int, optional
        Number of neurons kept, instead of `fraction`.
    seed : int
        Seed of the permutation whose first neurons are kept; subsets of one seed are nested. The paper uses 1 to 5.

    Attributes
    ----------
    indices_ : int64 array of shape [k]
        Neurons kept, in the permutation's order.
    n_neurons_ : int
        Their number k.
    n_features_in_ : int
        Neurons in the layer, D.
    feature_names_in_ : array of shape [D]
        Column names, where the features came with such.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from dr_utils import NeuronSubset
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = make_pipeline(NeuronSubset(0.5, seed=1), RidgeClassifier()).fit(X, y)
    >>> probe[0].n_neurons_
    32
    """

    def __init__(self, fraction: float | None = None, *, n_neurons: int | None = None, seed: int = 1):
        self.fraction = fraction
        self.n_neurons = n_neurons
        self.seed = seed

    def fit(self, X, y=None):
        """Draw the subset; of the features only the number of columns counts.

        Parameters
        ----------
        X : array of shape [n, D]
            Features, one row per image.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Both `fraction` and `n_neurons` given, either outside its range, a seed that is not an integer, or
            features that are not a finite matrix.
        """
        width = validate_data(self, X).shape[1]
        (self.indices_,) = subsets.random_subsets(width, self._share(width), [self.seed])
        self.n_neurons_ = len(self.indices_)
        return self

    def _share(self, width: int) -> float:
        if self.n_neurons is None:
            return 0.5 if self.fraction is None else self.fraction
        if self.fraction is not None:
            raise ValueError(
                f"give fraction or n_neurons, not both; got fraction={self.fraction!r} and "
                f"n_neurons={self.n_neurons!r}: set one of them to None."
            )
        try:
            k = operator.index(self.n_neurons)
        except TypeError:
            k = 0
        if not 1 <= k <= width:
            raise ValueError(
                f"n_neurons must be an integer from 1 to {width}, the columns of X; got {self.n_neurons!r}. "
                "For a share of the layer pass fraction."
            )
        return k / width


class CriticalMass(_NeuronSelector):
    """Keep the smallest random subset of neurons that does nearly what the whole layer does.

    For each size on a grid and each seed, the cross-validated score of a probe on that random subset is measured,
    on the same folds for all. Chosen is the smallest size at which the mean over seeds reaches `delta` times the
    full layer's score (Eq. 1 of the paper, rule "first" of `dr_utils.redundancy`). The subset kept is the first
    seed's of that size, never the best of the seeds: that one's score would flatter it. It alone may thus score a
    little less than `delta` of the full layer's.

    Only what is passed to `fit` is used to choose. `scores_` has been chosen from: for an honest score of the
    result, cross-validate the whole pipeline or keep a test set.

    Parameters
    ----------
    delta : float
        Share of the full layer's score to keep, in (0, 1].
    estimator : estimator, optional
        Probe, a classifier or a regressor. Default: `StandardScaler`, then `RidgeClassifierCV`: closed form, no
        learning rate, and a penalty chosen for each subset. With a fixed small one the full layer overfits where it
        has about as many neurons as there are samples, so that parts of it look better than the whole.
    fractions : sequence of float
        Shares of the layer to try, in (0, 1]. They are rounded down to whole neurons, at least one; equal numbers
        are measured once, and the full layer always is.
    seeds : sequence of int
        Seeds of the random subsets.
    cv : int, splitter or iterable of splits
        As in scikit-learn; an int means stratified folds for a classifier. Drawn once, so all subsets see the same.
    scoring : str or callable, optional
        As in scikit-learn; default: the probe's own `score`. 0 should mean useless, as the score is taken in shares.
    n_jobs : int, optional
        Subsets measured at a time, as in joblib.

    Attributes
    ----------
    fraction_ : float
        Share of the layer that is kept, k / D.
    n_neurons_ : int
        Number of neurons kept, k.
    indices_ : int64 array of shape [k]
        Neurons kept, in the permutation's order.
    diffused_redundancy_ : float
        1 - `fraction_`: the share of the layer that the task can do without.
    full_score_ : float
        Score of the full layer, mean over folds.
    fractions_ : float array of shape [F]
        Shares that were measured, rising, each a whole number of neurons; the last is 1.
    scores_ : float array of shape [F, seeds]
        Scores of the subsets, means over folds; the last row is the full layer, measured once.
    n_features_in_ : int
        Neurons in the layer, D.
    feature_names_in_ : array of shape [D]
        Column names, where the features came with such.

    References
    ----------
    Equation 1 of the paper.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from dr_utils import CriticalMass
    >>> X, y = load_digits(return_X_y=True)
    >>> chosen = CriticalMass(delta=0.9, fractions=(0.2, 0.4, 0.6, 0.8), seeds=(1, 2), cv=2).fit(X, y)
    >>> chosen.n_neurons_, chosen.transform(X).shape
    (38, (1797, 38))
    """

    def __init__(
        self,
        delta: float = 0.9,
        *,
        estimator=None,
        fractions: Sequence[float] = FRACTIONS,
        seeds: Sequence[int] = (1, 2, 3, 4, 5),
        cv=5,
        scoring=None,
        n_jobs: int | None = None,
    ):
        self.delta = delta
        self.estimator = estimator
        self.fractions = fractions
        self.seeds = seeds
        self.cv = cv
        self.scoring = scoring
        self.n_jobs = n_jobs

    def fit(self, X, y):
        """Measure the subsets and choose one.

        Parameters
        ----------
        X : array of shape [n, D]
            Features, one row per image.
        y : array of shape [n]
            Labels of any kind, or numbers if `estimator` is a regressor.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            `delta`, a fraction or a seed outside its range, no fractions or no seeds, features that are not a finite
            matrix, too few samples for the folds, or a full layer that does not score above 0.
        """
        delta = check_delta(self.delta)
        for name in ("fractions", "seeds"):
            if np.ndim(getattr(self, name)) != 1 or len(getattr(self, name)) == 0:
                raise ValueError(f"{name} must be a non-empty list; got {getattr(self, name)!r}.")
        X, y = validate_data(self, X, y, ensure_min_samples=2)
        width = X.shape[1]
        sizes = sorted({subsets.n_neurons(width, fraction) for fraction in self.fractions} | {width})
        parts = [part for k in sizes[:-1] for part in subsets.random_subsets(width, k / width, self.seeds)]

        estimator = _default_probe() if self.estimator is None else self.estimator
        folds = list(check_cv(self.cv, y, classifier=is_classifier(estimator)).split(X, y))
        # Columns in the layer's order, as `transform` gives them: a probe may depend on it, if only by rounding.
        full, *scores = Parallel(n_jobs=self.n_jobs)(
            delayed(_score)(estimator, X, y, np.sort(columns), self.scoring, folds)
            for columns in (np.arange(width), *parts)
        )
        if not full > 0:
            raise ValueError(
                f"the full layer scores {full:.3g} in cross-validation (scoring={self.scoring!r}); a share of it means "
                "something only above 0: use a scoring that is 0 for a useless probe and 1 for a perfect one, such as "
                "'accuracy' or 'r2', or a probe that learns this task."
            )

        self.full_score_ = full
        self.fractions_ = np.array(sizes) / width
        self.scores_ = np.array(scores + [full] * len(self.seeds)).reshape(len(sizes), len(self.seeds))
        curve = (self.fractions_, self.scores_, full, delta)
        self.fraction_ = critical_fraction(*curve)
        self.diffused_redundancy_ = diffused_redundancy(*curve)
        (self.indices_,) = subsets.random_subsets(width, self.fraction_, self.seeds[:1])
        self.n_neurons_ = len(self.indices_)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _default_probe():
    # On standardised features the Gram matrix has n on its diagonal: seven decades suit any n from tens to 100,000.
    return make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(-1, 5, 7)))


def _score(estimator, X, y, columns, scoring, folds) -> float:
    scores = cross_val_score(estimator, X[:, columns], y, scoring=scoring, cv=folds, error_score="raise")
    return float(scores.mean())
