"""What notebook 00 opens with: the explorer, or what is missing for it and a button that computes it."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np

from dr_utils import store
from dr_utils.cka import CKAStatistics
from dr_utils.explore.explorer import Explorer
from dr_utils.explore.readout import headless, or_table
from dr_utils.features import stored
from dr_utils.study import Study

VERSION = 1  # of the matrix Q that `cka_matrix` keeps


def start(study: Study):
    """Return the explorer, or, where cells are missing, what they are and a button that computes them.

    Executed without a person in front of it, what is missing is computed first, and the explorer's table returned.
    """
    missing = study.missing()
    if headless() or not missing:
        return or_table(_explorer(study, study.run()))
    return Missing(study, missing)


def _explorer(study: Study, tables: dict) -> Explorer:
    return Explorer(tables, lambda *cell: cka_matrix(study, *cell), key=str(study.folder), note=study.note)


class Missing(widgets.VBox):
    """Names the missing cells, computes them at the press of a button, and then becomes the explorer."""

    def __init__(self, study: Study, cells: list[tuple[str, str]], show: Callable[..., widgets.Widget] = _explorer):
        self.study, self.cells, self._show = study, cells, show
        by_network = {network: ", ".join(t for n, t in cells if n == network) for network, _ in cells}
        names = "".join(f"<li>{html.escape(n)}: {html.escape(tasks)}</li>" for n, tasks in by_network.items())
        self.text = widgets.HTML(
            f"<b>{len(cells)} of {len(study.profile.cells())} cells (network and task) of the profile "
            f"{html.escape(study.profile.name)} are still to be computed.</b> Finished cells are kept, also if you "
            f"interrupt the kernel.<ul>{names}</ul>"
        )
        self.button = widgets.Button(button_style="primary", icon="play", layout={"width": "auto"})
        self.bar = widgets.IntProgress(layout={"width": "100%", "display": "none"})
        self.status = widgets.HTML()
        self.button.on_click(lambda _: self.compute())
        super().__init__([self.text, self.button, self.bar, self.status])
        self._offer()

    def compute(self) -> None:
        """Compute the missing cells, one after the other; an error is shown, and the button offers the rest again."""
        self.button.disabled, self.bar.layout.display = True, "flex"
        tables = None
        try:
            for done, (network, task) in enumerate(self.cells):
                self.status.value = f"{done + 1} of {len(self.cells)}: {html.escape(network)} on {html.escape(task)}"
                tables = self.study.run(networks=[network], tasks=[task])
                self.bar.value = done + 1
        except (Exception, KeyboardInterrupt) as error:  # nobody is there to raise to: it is shown below the button
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            self.status.value = f"<b>Stopped:</b> {html.escape(why)}"
            self.cells = self.study.missing()
            self._offer()
            return
        self.children = [self._show(self.study, tables)]

    def _offer(self) -> None:
        self.button.description = f"compute {len(self.cells)} cell{'s' * (len(self.cells) != 1)}"
        self.button.disabled, self.bar.value, self.bar.max = False, 0, max(1, len(self.cells))


def cka_matrix(study: Study, network: str, task: str) -> np.ndarray | None:
    """Return Q of a finished cell, over the test images that its CKA was measured on; made once, and kept.

    Returns
    -------
    float64 array of shape [D, D] or None
        As `dr_utils.cka.CKAStatistics.matrix` gives it, biased; None where the cell is still to be computed or its
        features are no longer in the cache.

    Raises
    ------
    dr_utils.store.CacheError
        The cache folder cannot be written.
    """
    about = study.about(network, task)
    if about is None:
        return None
    source, images = about["features"]["test"], study.profile.cka.images
    made_from = {"features": source, "images": images, "estimator": "biased", "version": VERSION}
    key = store.key_of(made_from)
    kept = store.read("cka", key)
    if kept is not None:
        return kept.arrays["q"]
    features = stored(source)
    if features is None:
        return None
    x = features.x[:images]
    q = CKAStatistics(x.shape[1], estimators=("biased",)).update(x).matrix()
    store.write("cka", key, about=made_from, arrays={"q": q})
    return q
