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
from dr_utils.explore.sliding import CONTROL, headless, per_cent, table
from dr_utils.own import Answer, load

FIELDS = {
    "model": "a network of the suite, of timm or torchvision",
    "checkpoint": "weights for a timm or torchvision architecture; empty: its own",
    "layer": "empty: the input of the last linear layer",
    "data": "a task of the suite, an image folder, or a Hugging Face dataset saved on disk",
    "features": "instead of the above: .npy, .npz, .safetensors or .parquet",
    "labels": "of these features, where the file does not hold them",
}
HEAD = ("keep", "neurons", "of the layer", "accuracy", "full layer", "kept (test)", "saved", "kB per 1,000 samples",
        "probe parameters")  # fmt: skip


def recommendation_table(answer: Answer) -> str:
    """The recommendation as HTML."""
    rows = []
    for r in answer.recommendation().itertuples():
        spread = "" if pd.isna(r.std) else f" ± {r.std:.3f}"
        fraction, kept, saved = (per_cent(round(share, 3)) for share in (r.fraction, r.kept, r.saved))
        rows.append([
            per_cent(r.keep), f"<b>{r.neurons}</b> of {answer.width}", fraction, f"{r.accuracy:.3f}{spread}",
            f"{r.full:.3f}", kept, saved, f"{r.kilobytes:,} of {r.kilobytes_full:,}",
            f"{r.parameters:,} of {r.parameters_full:,}",
        ])  # fmt: skip
    return table(HEAD, rows, name="dr-recommendation")


class OwnForm(widgets.VBox):
    """Fields for network and data, a button, and the answer.

    `given` holds what the fields hold at first, by the names of `FIELDS`; `options` are further arguments of
    `dr_utils.own.load`, and `measuring` (solver, seeds) those of its answer. `answer` is the last that was found.
    """

    def __init__(self, given: Mapping[str, object], options: Mapping[str, object], **measuring):
        self.answer: Answer | None = None
        self._given, self._options, self._measuring = given, options, measuring
        self.fields = {
            name: widgets.Text(str(given.get(name) or ""), description=name, placeholder=hint, **CONTROL)
            for name, hint in FIELDS.items()
        }
        self.button = widgets.Button(description="measure", button_style="primary", icon="play")
        self.status, self.result = widgets.HTML(), widgets.VBox()
        self.button.on_click(lambda _: self.measure())
        super().__init__([*self.fields.values(), self.button, self.status, self.result])

    def _value(self, name: str):
        """A field's text; an object, such as an nn.Module, is kept as given until its field is changed."""
        text, given = self.fields[name].value.strip(), self._given.get(name)
        return given if given is not None and text == str(given) else text

    def measure(self) -> None:
        """Extract, measure and show; what goes wrong is shown where the button is, or raised without a person."""
        self.button.disabled, self.status.value = True, "measuring ..."
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", DataWarning)
                source = load(**{name: value for name in FIELDS if (value := self._value(name))}, **self._options)
            self.answer = source.answer(**self._measuring, device=self._options.get("device", "auto"))
        except (ValueError, RuntimeError, OSError) as error:
            if headless():
                raise
            self.status.value = f"<b>Error:</b> {html.escape(str(error))}"
            return
        finally:
            self.button.disabled = False
        title = f"{source.card.title if source.card else 'own features'} on {source.task}"
        self.status.value = (
            f"<b>{html.escape(title)}</b>, {self.answer.width} neurons, {len(source.train.y)} train and "
            f"{len(source.test.y)} test samples: sizes chosen on a held-out quarter of train, accuracies on test."
            + "".join(f"<br>Note: {html.escape(str(warning.message))}" for warning in caught)
        )
        x = source.test.x
        q = CKAStatistics(x.shape[1], estimators=("biased",)).update(x).matrix()
        explorer = Explorer(self.answer.tables, lambda *_: q, key=f"own {self.answer.network} {self.answer.task}")
        self.result.children = [widgets.HTML(recommendation_table(self.answer)), explorer]


def own_form(given: Mapping[str, object], options: Mapping[str, object], **measuring):
    """Return the form with the answer for what is given, and what to display: the form, or a table without a person."""
    form = OwnForm(given, options, **measuring)
    form.measure()
    if not headless():
        return form, form
    return form, HTML(f"<p>{form.status.value}</p>{recommendation_table(form.answer)}")
