"""Choose the device that networks and probes run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return "auto", "cpu" or "cuda" as a device; "auto" takes a GPU where there is one.

    Raises
    ------
    ValueError
        CUDA is asked for and torch sees none.
    """
    import torch  # not at the top: a notebook that only reads tables imports no torch

    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    return torch.device(device)
