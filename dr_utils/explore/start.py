"""What notebook 00 opens with: the explorer, or what is missing for it and a button that computes it."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets

from dr_utils.explore.explorer import Explorer
from dr_utils.explore.matrix import cka_matrix
from dr_utils.explore.readings import Readings
from dr_utils.explore.shown import headless, shown
from dr_utils.study import Study


def explorer(study: Study, tables: dict) -> Explorer:
    """The explorer of a study's tables."""
    return Explorer(
        Readings(tables), lambda network, task: cka_matrix(study, network, task), key=str(study.folder), note=study.note
    )


def start(study: Study):
    """Return the explorer, or, where cells are missing, what they are and a button that computes them.

    Executed without a person in front of it, what is missing is computed first.
    """
    missing = study.missing()
    if headless() or not missing:
        return shown(explorer(study, study.run()))
    return Missing(study, missing)


class Missing(widgets.VBox):
    """Says which cells are missing, computes them at the press of a button, and then becomes the explorer."""

    def __init__(self, study: Study, missing: list[tuple[str, str]], show: Callable[..., widgets.Widget] = explorer):
        self.study, self.cells, self._show = study, missing, show
        total = len(study.profile.cells())
        by_network: dict[str, list[str]] = {}
        for network, task in missing:
            by_network.setdefault(network, []).append(task)
        names = "".join(f"<li>{html.escape(n)}: {html.escape(', '.join(t))}</li>" for n, t in by_network.items())
        self.text = widgets.HTML(
            f"<b>{len(missing)} of {total} cells (network and task) of the profile {html.escape(study.profile.name)} "
            f"are still to be computed.</b> What is finished is kept, also if you interrupt the kernel.<ul>{names}</ul>"
        )
        self.button = widgets.Button(
            description=_label(missing), button_style="primary", icon="play",
            layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.bar = widgets.IntProgress(max=len(missing), layout=widgets.Layout(width="100%", display="none"))
        self.status = widgets.HTML()
        self.button.on_click(lambda _: self.compute())
        super().__init__([self.text, self.button, self.bar, self.status])

    def compute(self) -> None:
        """Compute the missing cells, one after the other; an error is shown, and the button offers the rest again."""
        self.button.disabled, self.bar.layout.display = True, "flex"
        tables = None
        try:
            for done, (network, task) in enumerate(self.cells):
                self.status.value = f"{done + 1} of {len(self.cells)}: {html.escape(network)} on {html.escape(task)}"
                tables = self.study.run(networks=[network], tasks=[task])
                self.bar.value = done + 1
        except KeyboardInterrupt:
            self._offer("interrupted")
            return
        except Exception as error:  # noqa: BLE001 - a button has nobody to raise to: it is shown where it was pressed
            self._offer(f"{type(error).__name__}: {error}")
            return
        self.children = [self._show(self.study, tables)]

    def _offer(self, why: str) -> None:
        self.cells = self.study.missing()
        self.status.value = f"<b>Stopped:</b> {html.escape(why)}"
        self.button.description, self.button.disabled = _label(self.cells), False
        self.bar.max, self.bar.value = max(1, len(self.cells)), 0


def _label(cells: list[tuple[str, str]]) -> str:
    return f"compute {len(cells)} cell{'s' * (len(cells) != 1)}"
