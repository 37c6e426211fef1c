"""Choose the device that networks and probes run on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A driver that offers a GPU to Linux makes one of these: NVIDIA's, Windows', that of NVIDIA's boards, AMD's.
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")


def has_cuda() -> bool:
    """Return whether torch sees a GPU; torch is imported only where the machine shows one."""
    if sys.platform == "linux" and not any(map(os.path.exists, GPU_FILES)):
        return False
    import torch

    return torch.cuda.is_available()


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return "auto", "cpu" or "cuda" as a device; "auto" takes a GPU where there is one.

    Raises
    ------
    ValueError
        CUDA is asked for and torch sees none.
    """
    import torch

    if str(device) == "auto":
        return torch.device("cuda" if has_cuda() else "cpu")
    if str(device).startswith("cuda") and not has_cuda():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    return torch.device(device)
