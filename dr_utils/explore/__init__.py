"""Sliders for JupyterLab: the explorer of notebook 00, and one sliding curve that takes the rows of any figure."""

from dr_utils.explore import figures
from dr_utils.explore.explorer import Explorer
from dr_utils.explore.matrix import cka_matrix
from dr_utils.explore.readings import Point, Readings
from dr_utils.explore.sliding import SlidingCurve, curve
from dr_utils.explore.start import start

__all__ = ["Explorer", "Point", "Readings", "SlidingCurve", "cka_matrix", "curve", "figures", "start"]
