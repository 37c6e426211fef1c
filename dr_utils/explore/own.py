"""Notebook 08: which network and which data, in fields, and the answer below them."""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML

from dr_utils.cka import CKAStatistics
from dr_utils.datasets import DataWarning
from dr_utils.explore.explorer import Explorer
from dr_utils.explore.readout import CONTROL, headless, per_cent, table
from dr_utils.own import Answer, load

FIELDS = {
    "model": "a network of the suite, of timm or torchvision",
    "checkpoint": "weights for a timm or torchvision architecture; empty: its own",
    "layer": "empty: the input of the last linear layer",
    "data": "a task of the suite, an image folder, or a Hugging Face dataset saved on disk",
    "features": "instead of the above: .npy, .npz, .safetensors or .parquet",
    "labels": "of these features, where the file does not hold them",
}


def recommendation_table(answer: Answer) -> str:
    """The recommendation as HTML."""
    head = ["keep", "neurons", "of the layer", "accuracy", "full layer", "kept (test)", "saved", "kB per 1,000 samples",
            "probe parameters"]  # fmt: skip
    rows = []
    for r in answer.recommendation().itertuples():
        spread = "" if pd.isna(r.std) else f" ± {r.std:.3f}"
        rows.append([
            per_cent(r.keep), f"<b>{r.neurons}</b> of {answer.width}", per_cent(round(r.fraction, 3)),
            f"{r.accuracy:.3f}{spread}", f"{r.full:.3f}", per_cent(round(r.kept, 3)), per_cent(round(r.saved, 3)),
            f"{r.kilobytes:,} of {r.kilobytes_full:,}", f"{r.parameters:,} of {r.parameters_full:,}",
        ])  # fmt: skip
    return table(head, rows, name="dr-recommendation")


class OwnForm(widgets.VBox):
    """Fields for network and data, a button, and the answer.

    Parameters
    ----------
    given : mapping of str to object
        What the fields hold at first, by the names of `FIELDS`; None is empty.
    options : mapping
        Further keyword arguments of `dr_utils.own.load` (resolution, limit, seed, device).
    solver : {"sgd", "ridge"}
    seeds : sequence of int

    Attributes
    ----------
    answer : Answer or None
        Of the last press of the button that ended well.
    error : Exception or None
        What the last press ended with.
    """

    def __init__(self, given: Mapping[str, object], options: Mapping[str, object], *, solver: str = "sgd", seeds=(1,)):
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._options, self._measuring = dict(options), {"solver": solver, "seeds": list(seeds)}
        self.fields = {
            name: widgets.Text(
                value=str(given.get(name) or ""), description=name, placeholder=hint, continuous_update=False, **CONTROL
            )
            for name, hint in FIELDS.items()
        }
        # An object, such as an nn.Module, is not text: it is kept as given until its field is changed.
        self._objects = {n: (str(v), v) for n, v in given.items() if v is not None and not isinstance(v, str)}
        self.button = widgets.Button(description="measure", button_style="primary", icon="play")
        self.status, self.result = widgets.HTML(), widgets.VBox()
        self.button.on_click(lambda _: self.measure())
        super().__init__([*self.fields.values(), self.button, self.status, self.result])

    def _given(self, name: str):
        text = self.fields[name].value.strip()
        shown, given = self._objects.get(name, (None, None))
        return given if shown == text else text or None

    def measure(self) -> None:
        """Extract, measure and show; what goes wrong is shown where the button is."""
        self.button.disabled, self.status.value, self.error = True, "measuring ...", None
        try:
            chosen = {name: self._given(name) for name in FIELDS}
            chosen |= {name: chosen[name] or "" for name in ("model", "data")}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DataWarning)
                source = load(**chosen, **self._options)
            about_data = [w for w in caught if issubclass(w.category, DataWarning)]
            notes = "".join(f"<br>Note: {html.escape(str(w.message))}" for w in about_data)
            for other in (w for w in caught if w not in about_data):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
            self.answer = source.answer(**self._measuring, device=self._options.get("device", "auto"))
        except (ValueError, RuntimeError, OSError) as error:
            self.status.value, self.error = f"<b>Error:</b> {html.escape(str(error))}", error
            return
        finally:
            self.button.disabled = False
        title = f"{source.card.title if source.card else 'own features'} on {source.task}"
        self.status.value = (
            f"<b>{html.escape(title)}</b>, {self.answer.width} neurons, {len(source.train.y)} train and "
            f"{len(source.test.y)} test samples: sizes chosen on a held-out quarter of train, accuracies on test."
            + notes
        )
        x = source.test.x
        q = CKAStatistics(x.shape[1], estimators=("biased",)).update(x).matrix()
        explorer = Explorer(self.answer.tables, lambda *_: q, key=f"own {self.answer.network} {self.answer.task}")
        self.result.children = [widgets.HTML(recommendation_table(self.answer)), explorer]


def own_form(given: Mapping[str, object], options: Mapping[str, object], **measuring):
    """Return the form with the answer for what is given; without a person, raise what goes wrong, and show the table.

    Returns
    -------
    form : OwnForm
    shown : OwnForm or HTML
        What to display.
    """
    form = OwnForm(given, options, **measuring)
    form.measure()
    if not headless():
        return form, form
    if form.error is not None:
        raise form.error
    return form, HTML(f"<p>{form.status.value}</p>{recommendation_table(form.answer)}")
