"""Training a network of the zoo: seeded, resumable after every epoch, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.device import pick_device
from dr_utils.models.small_networks import SmallNetwork, build
from dr_utils.progress import progress
from dr_utils.zoo import attacks
from dr_utils.zoo.data import Epoch, Images, to_batch
from dr_utils.zoo.optimisers import Optimiser, one_cycle
from dr_utils.zoo.recipes import IMAGES_SIDE, Recipe

PRECISIONS = ("auto", "float32", "bfloat16")
LONGEST_STEP = 60.0  # seconds
SAFEGUARD_IMAGES = 256
SAFE_STEPS = 3  # of the attack from which training goes on once single steps have failed
# Raised by one whenever the same recipe and images would give other weights than before.
TRAINING_VERSION = 2


@dataclass
class Progress:
    """Where a training stands; all of it is in its checkpoint.

    Attributes
    ----------
    epoch : int
        Finished epochs.
    seconds : float
        Time spent training, over all runs.
    attack_steps : int
        Of the attack in use: more than the recipe's where the safeguard intervened.
    losses : list of float
        Mean training loss of each finished epoch.
    hardware : list of str
        Everything it ran on.
    """

    attack_steps: int
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """A network after its last epoch, in evaluation mode, with how it came about."""

    network: SmallNetwork
    progress: Progress
    precision: str


def image_side(epoch: int, recipe: Recipe) -> int:
    """Side in pixels of the images of this epoch: windows at first, then whole images."""
    return recipe.early_side if epoch < round(recipe.early_share * recipe.epochs) else IMAGES_SIDE


def train(
    recipe: Recipe,
    images: Images,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    checkpoints: str | Path | None = None,
    stop_after: int | None = None,
) -> Trained:
    """Train a network, from its last checkpoint if there is one.

    A training that was interrupted and goes on ends with the weights of one that was not, on the same hardware.

    Parameters
    ----------
    recipe : Recipe
    images : Images
        Of the training split, with the recipe's number of classes.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
        "bfloat16" is autocast; "auto" takes it on CUDA devices that compute in it, float32 elsewhere.
    checkpoints : path, optional
        Folder; default ``zoo/checkpoints`` in the cache folder. A checkpoint's name has a hash of recipe, images and
        precision in it: another recipe starts afresh.
    stop_after : int, optional
        End the call after this many epochs in all, with the checkpoint written.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        Images of another number of classes, unknown device or precision.
    FloatingPointError
        The loss is no longer finite.
    dr_utils.store.CacheError
        The checkpoint cannot be written.
    """
    if len(images.classes) != recipe.n_classes:
        raise ValueError(f"{recipe.name} has {recipe.n_classes} classes; the images given have {len(images.classes)}.")
    return _Training(recipe, images, pick_device(device), precision, checkpoints).run(stop_after)


def checkpoint_path(recipe: Recipe, images: Images, precision: str, folder: str | Path | None = None) -> Path:
    """Where the checkpoint of this training is, whether or not there is one."""
    identity = {"version": TRAINING_VERSION, "recipe": recipe.as_dict(), "images": images.digest, "n": len(images),
                "precision": precision}  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = store.cache_dir() / "zoo" / "checkpoints" if folder is None else Path(folder)
    return folder / f"{recipe.name}-{digest[:16]}.safetensors"


def pick_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into "bfloat16" on CUDA devices that compute in it, and into "float32" elsewhere."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if on_gpu else "float32"


def hardware_name(device: torch.device) -> str:
    """Name of the GPU, or of the CPU with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


class _Training:
    def __init__(self, recipe: Recipe, images: Images, device: torch.device, precision: str, folder):
        self.recipe, self.device = recipe, device
        self.precision = pick_precision(precision, device)
        self.path = checkpoint_path(recipe, images, self.precision, folder)
        # The data is small enough (186 MB) to be held where it is used: no batch crosses the bus.
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.samples = round(len(images) * recipe.repeats)
        # Batch normalisation wants full batches: the few samples left over wait for another epoch's order.
        self.steps = max(1, self.samples // recipe.batch_size)
        self.total = self.steps * recipe.epochs
        self.restart()

    def restart(self) -> None:
        """Go to the last checkpoint, or to the start if there is none."""
        self.network = build(self.recipe).to(self.device, memory_format=torch.channels_last)
        self.optimiser = Optimiser(self.network, self.recipe)
        self.at = Progress(self.recipe.attack_steps)
        if self.path.is_file():
            self._load()

    def run(self, stop_after: int | None) -> Trained:
        end = min(self.recipe.epochs, stop_after or self.recipe.epochs)
        left = max(0, end - self.at.epoch) * self.steps
        if (name := hardware_name(self.device)) not in self.at.hardware:
            self.at.hardware.append(name)
        fastest = self.device.type == "cuda" and torch.backends.cudnn.benchmark
        with progress(total=left, desc=self.recipe.name, unit="batches") as bar:
            torch.backends.cudnn.benchmark = self.device.type == "cuda"
            try:
                while self.at.epoch < end:
                    self._epoch(bar)
            finally:
                torch.backends.cudnn.benchmark = fastest
        return Trained(self.network.eval(), self.at, self.precision)

    def _epoch(self, bar) -> None:
        epoch, spent = self.at.epoch, 0.0
        samples = Epoch(len(self.labels), self.samples, self.recipe.seed, epoch, self.device)
        # Apart from the augmentation's, so that adversarial and standard training see the same images.
        noise = torch.Generator(self.device).manual_seed(self.recipe.seed * 100_003 + epoch)
        total = torch.zeros((), device=self.device)
        side = image_side(epoch, self.recipe)
        for step in range(self.steps):
            start = time.monotonic()
            share = one_cycle(epoch * self.steps + step, self.total, self.recipe.warmup)
            first = step * self.recipe.batch_size
            batch, rows = samples.batch(self.pixels, first, first + self.recipe.batch_size, side)
            total += self._step(batch, self.labels[rows], noise, share)
            bar.update(1)
            # No step takes a minute: where one did, the machine slept or the process was stopped.
            spent += min(time.monotonic() - start, LONGEST_STEP)
        loss = float(total) / self.steps
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.recipe.name}: the loss is {loss} in epoch {epoch + 1}; lower its lr.")
        if self._collapsed(samples, noise):
            # This epoch is undone, and training goes on with an attack that networks do not learn to evade.
            self.restart()
            self.at.attack_steps = SAFE_STEPS
            return
        self.at.losses.append(round(loss, 5))
        self.at.epoch += 1
        self.at.seconds += spent
        bar.set_description(f"{self.recipe.name}, epoch {self.at.epoch} of {self.recipe.epochs}, loss {loss:.3f}")
        self._save()

    def _step(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Generator, share: float) -> torch.Tensor:
        if self.recipe.training == "adversarial":
            images = self._attack(images, labels, noise)
        self.network.train()
        with self._autocast():
            scores = self.network.all_logits(images)
        # Over nested heads the losses are summed, as Matryoshka training has it; others have one head.
        smoothing = self.recipe.label_smoothing
        loss = sum(cross_entropy(s.float(), labels, label_smoothing=smoothing) for s in scores)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step(share)
        return loss.detach()

    def _attack(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        # The attacked network is the one that will be judged: with running statistics, not the batch's.
        self.network.eval()
        # The same change per pixel for windows as for whole images.
        radius = self.recipe.radius * images.shape[-1] / IMAGES_SIDE
        if self.at.attack_steps == 1:
            return attacks.single_step(self._score, images, labels, radius=radius, generator=noise)
        return attacks.pgd(self._score, images, labels, radius=radius, steps=self.at.attack_steps, generator=noise)

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self.network(images).float()

    def _collapsed(self, samples: Epoch, noise: torch.Generator) -> bool:
        if self.recipe.training != "adversarial" or self.at.attack_steps != 1:
            return False
        rows = samples.order[:SAFEGUARD_IMAGES]
        self.network.eval()
        return attacks.safeguard(
            self._score, to_batch(self.pixels[rows]), self.labels[rows], radius=self.recipe.radius, generator=noise
        )[2]

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _save(self) -> None:
        """Write the checkpoint in one piece: tensors, and the rest as JSON in the file's header; nothing executable."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in self.optimiser.tensors().items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with store.atomic_path(self.path) as part:
            save_file(tensors, part, {"progress": json.dumps(vars(self.at))})

    def _load(self) -> None:
        try:
            with safe_open(self.path, framework="pt") as file:
                at = Progress(**json.loads(file.metadata()["progress"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise store.AssetError(
                f"the checkpoint {self.path} is damaged ({error}); delete it, and {self.recipe.name} starts afresh."
            ) from error
        self.network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n[:8] == "network."})
        self.optimiser.load({n.removeprefix("optimiser."): t for n, t in tensors.items() if n[:10] == "optimiser."})
        self.at = at
