"""The 8x8 digits that scikit-learn carries: no download at all."""

from __future__ import annotations

import numpy as np

from dr_utils.datasets.task import Source, Split, TaskCard, split_by_hash


def decode() -> dict[str, Split]:
    """Both splits as uint8 RGB: grey levels 0-16 stretched to 0-255, in three equal channels."""
    # Imported here: it takes seconds, and a decoded task needs it no more.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return split_by_hash(np.repeat(grey[..., None], 3, axis=-1), bunch.target, 1000, "digits")


SOURCE = Source(
    card=TaskCard(
        name="digits",
        title="Digits",
        classes=tuple("0123456789"),
        splits={"train": 797, "test": 1000},
        resolution="8x8",
        source="scikit-learn, load_digits (test part of the UCI optical recognition of handwritten digits)",
        licence="CC BY 4.0",
        note="Fixed stratified split of our own, as scikit-learn's copy comes without one. "
        "Grey in three equal channels.",
    ),
    recipe="load_digits, 0-16 to 0-255, split by hash, 1",
    decode=decode,
    pinned={
        "train": (
            "f94525057470cd7cb888f3e9ea5e56eaec4a5dae401eb0667975b27d65747d4e",
            "4998c31e49111e0ac8ecd295a570097663bd4cf0e1f67dbb1d15896d1545f3c8",
        ),
        "test": (
            "70c014389287d1ef8b90bc9666eecd4af8ec6ed1d800698911bf959e6820dcdc",
            "cd877ca1a43d0713d812a23177c3c1d673f41db5f78ddae2a7decc1e60d23877",
        ),
    },
)
