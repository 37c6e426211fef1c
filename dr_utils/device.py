"""Choose the device that networks and probes run on."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
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


def device_name(device: str | torch.device = "auto") -> str:
    """Return the name of a device, such as "cpu" or "cuda"; "auto" takes a GPU where there is one.

    Raises
    ------
    ValueError
        CUDA is asked for and torch sees none.
    """
    if str(device) == "auto":
        return "cuda" if has_cuda() else "cpu"
    if str(device).startswith("cuda") and not has_cuda():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    return str(device)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that `device_name` names, as torch knows it; ValueError as there."""
    import torch

    return torch.device(device_name(device))


def hardware_name(device: str | torch.device = "cpu") -> str:
    """Return the name of the GPU, or of the CPU with the number of threads that this process may use."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads"
