"""Choose the device that networks and probes run on."""

from __future__ import annotations

import os
import platform
import re
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
    """Return "cpu", "cuda", ...; "auto" takes a GPU where there is one. ValueError if CUDA is asked for in vain."""
    if str(device) == "auto":
        return "cuda" if has_cuda() else "cpu"
    if str(device).startswith("cuda") and not has_cuda():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    return str(device)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that `device_name` names."""
    import torch

    return torch.device(device_name(device))


def hardware_name(device: str | torch.device = "cpu") -> str:
    """Return the name of the GPU, or of the CPU with the number of threads that this process may use."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else platform.machine()}, {cores()} threads"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
