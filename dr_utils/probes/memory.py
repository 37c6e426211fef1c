"""What a grid of probes needs on a device, and how it is cut to fit: fewer probes at a time, features from the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dr_utils.probes.chains import Group

# Of what is free on a CUDA device when training starts; the rest is for evaluation and the allocator's slack.
USABLE_SHARE = 0.8
# A batch gathers rows from column-permuted copies of the features when these fit, which is several times
# faster than permuting each batch; beyond this many bytes the columns are permuted batch by batch.
COPY_BYTES = 4 << 30


@dataclass(frozen=True)
class Plan:
    """How a grid is trained.

    Attributes
    ----------
    resident : bool
        Whether the features stay on the device; if not, each batch comes from the host.
    waves : list of lists of Group
        Probes whose weights are on the device at the same time. One wave: all of them, always.
    copy_bytes : int
        Up to how many bytes a group may hold of column-permuted copies.
    n_bytes : int
        What the largest wave takes on the device, copies left out.
    """

    resident: bool
    waves: list[list[Group]]
    copy_bytes: int
    n_bytes: int


def group_bytes(group: Group, n_classes: int, batch_size: int, dtype: torch.dtype) -> int:
    """Bytes on the device for training one group: weights, momentum, gradient, and what one step makes."""
    item, n_chains, n_probes = dtype.itemsize, len(group.seeds), len(group.lengths)
    parameters = n_chains * n_classes * (sum(group.lengths) + n_probes)
    logits = n_chains * batch_size * n_probes * n_classes
    batch = n_chains * batch_size * group.lengths[-1]
    # Beside the parameters' three buffers, two arrays as large as the logits live at once, and the batch as it is
    # stored and as it is multiplied.
    return item * (3 * parameters + 2 * logits + 2 * batch)


def plan(
    groups: Sequence[Group],
    feature_bytes: int,
    n_classes: int,
    batch_size: int,
    dtype: torch.dtype,
    budget: int | None,
) -> Plan:
    """Fit the training of these groups into `budget` bytes of device memory (None: as much as it takes).

    Raises
    ------
    ValueError
        Not even one chain of nested probes fits.
    """

    def needed(part: Group) -> int:
        return group_bytes(part, n_classes, batch_size, dtype)

    everything = sum(map(needed, groups))
    if budget is None:
        return Plan(True, [list(groups)], COPY_BYTES, feature_bytes + everything)
    chains = [chain for group in groups for chain in group.split(len(group.seeds))]
    largest = max(map(needed, chains))
    resident = feature_bytes + largest <= budget
    left = budget - feature_bytes if resident else budget
    if everything <= left:
        spare = (left - everything) // len(groups)
        return Plan(resident, [list(groups)], min(COPY_BYTES, spare) if resident else 0, budget - left + everything)
    if largest > left:
        raise ValueError(
            f"one chain of nested probes takes {largest / 1e9:.3g} GB of device memory, and {budget / 1e9:.3g} GB are "
            "to be used; take a smaller batch_size, fewer fractions, or device='cpu'."
        )
    waves: list[list[Group]] = []
    sizes: list[int] = []
    for group in groups:
        # As many chains of a group together as fit, so that they are still one batch.
        fitting = max(1, left // max(map(needed, group.split(len(group.seeds)))))
        for part in group.split(-(-len(group.seeds) // fitting)):
            if sizes and sizes[-1] + needed(part) <= left:
                waves[-1].append(part)
                sizes[-1] += needed(part)
            else:
                waves.append([part])
                sizes.append(needed(part))
    return Plan(resident, waves, 0, budget - left + max(sizes))


def usable(device: torch.device) -> int | None:
    """Bytes that training may take on this device; None where nothing need be cut, on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what extraction left behind counts as taken otherwise
    return int(USABLE_SHARE * torch.cuda.mem_get_info(device)[0])
