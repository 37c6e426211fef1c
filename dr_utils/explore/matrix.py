"""The matrix from which the similarity of any subset follows, made once from stored features and kept."""

from __future__ import annotations

import numpy as np

from dr_utils import store
from dr_utils.cka import CKAStatistics
from dr_utils.features import stored
from dr_utils.study import Study


def cka_matrix(study: Study, network: str, task: str, estimator: str = "biased") -> np.ndarray | None:
    """Return Q of a finished cell, over the test images that its CKA was measured on.

    Parameters
    ----------
    study : Study
    network, task : str
        Of its profile.
    estimator : {"biased", "debiased"}

    Returns
    -------
    float64 array of shape [D, D] or None
        As `dr_utils.cka.CKAStatistics.matrix` gives it; None where the cell is still to be computed or its features are
        no longer in the cache.

    Raises
    ------
    ValueError
        Unknown estimator.
    dr_utils.store.CacheError
        The cache folder cannot be written.
    """
    about = study.about(network, task)
    if about is None:
        return None
    identity, images = about["identity"], study.profile.cka.images
    key = identity["features"][1 + identity["eval_sets"].index("test")]
    path = store.cache_dir() / "cka" / f"{key}-{images}-{estimator}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    features = stored(key)
    if features is None:
        return None
    x = features.x[:images]
    q = CKAStatistics(x.shape[1], estimators=(estimator,)).update(x).matrix(estimator)
    store.check_cache(q.nbytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic_path(path) as part, part.open("wb") as file:
        np.save(file, q)
    return q
