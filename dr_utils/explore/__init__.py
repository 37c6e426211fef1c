"""Sliders for JupyterLab: the explorer of notebook 00, and one sliding curve that takes the rows of any figure."""

from dr_utils.explore.explorer import Explorer, cka_matrix, start
from dr_utils.explore.sliding import SlidingCurve, curve, form, headless

__all__ = ["Explorer", "SlidingCurve", "cka_matrix", "curve", "form", "headless", "start"]
