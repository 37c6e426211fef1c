"""Sliders for JupyterLab: the explorer of notebook 00, and one for the figure of every other notebook."""

from dr_utils.explore import figures
from dr_utils.explore.explorer import Explorer
from dr_utils.explore.matrix import cka_matrix
from dr_utils.explore.readings import Point, Readings
from dr_utils.explore.start import start

__all__ = ["Explorer", "Point", "Readings", "cka_matrix", "figures", "start"]
