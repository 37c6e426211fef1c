"""Train a small network: seeded, resumed after every epoch, on the CPU or a GPU."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field

import torch
from torch.nn.functional import cross_entropy

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.datasets import ImageTask
from dr_utils.device import hardware_name, pick_device
from dr_utils.models.small import IMAGES_SIDE
from dr_utils.models.small_networks import build
from dr_utils.progress import progress
from dr_utils.zoo import attacks
from dr_utils.zoo.data import Epoch, to_batch
from dr_utils.zoo.optimisers import Optimiser, one_cycle
from dr_utils.zoo.recipes import Recipe

PRECISIONS = ("auto", "float32", "bfloat16")
LONGEST_STEP = 60.0  # seconds; where a step took longer, the machine slept or the process was stopped
SAFEGUARD_IMAGES = 256
SAFE_STEPS = 3  # of the attack with which training goes on once single steps have failed
VERSION = 2  # raised by one whenever the same recipe and images would give other weights than before


@dataclass
class Progress:
    """How far a training is, over all its runs; part of the checkpoint.

    Finished epochs, seconds spent on them and their mean losses; steps of the attack in use, which are more than the
    recipe's where the safeguard stepped in; and everything that the training ran on.
    """

    attack_steps: int
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)


def image_side(epoch: int, recipe: Recipe) -> int:
    """Return the side in pixels of the images of this epoch: windows at first, then whole images."""
    return recipe.early_side if epoch < round(recipe.early_share * recipe.epochs) else IMAGES_SIDE


def pick_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into "bfloat16" on CUDA devices that compute in it, and into "float32" elsewhere."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if on_gpu else "float32"


class Training:
    """A network in training, from its last checkpoint if there is one.

    A training that was interrupted and goes on ends with the weights of one that was not, on the same hardware.
    Checkpoints are kept in the store, by recipe, images and precision: another recipe starts afresh.

    Parameters
    ----------
    recipe : Recipe
    images : ImageTask
        Train images, with the recipe's number of classes.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
        "bfloat16" is autocast; "auto" takes it on CUDA devices that compute in it, float32 elsewhere.

    Attributes
    ----------
    network : SmallNetwork
    progress : Progress
    key : str
        Of the checkpoint, in the store under "checkpoints".

    Raises
    ------
    ValueError
        Images of another number of classes, unknown device or precision.
    """

    def __init__(self, recipe: Recipe, images: ImageTask, *, device: str = "auto", precision: str = "auto"):
        if (found := len(images.classes)) != recipe.n_classes:
            raise ValueError(f"{recipe.name} has {recipe.n_classes} classes; the images given have {found}.")
        self.recipe, self.images, self.device = recipe, images, pick_device(device)
        self.precision = pick_precision(precision, self.device)
        about = {"recipe": recipe.as_dict(), "images": images.digest, "n": len(images), "precision": self.precision}
        self.key = store.key_of({"version": VERSION, **about})
        # 186 MB: small enough to be held where it is used, so that no batch crosses the bus.
        self._pixels = torch.from_numpy(images.images).to(self.device)
        self._labels = torch.from_numpy(images.labels).to(self.device)
        self._samples = round(len(images) * recipe.repeats)
        # Batch normalisation wants full batches: the few samples left over wait for another epoch's order.
        self.steps = max(1, self._samples // recipe.batch_size)
        self._load()

    def run(self, stop_after: int | None = None) -> Training:
        """Train to the last epoch, or until `stop_after` epochs are done in all; return the training itself.

        Raises
        ------
        FloatingPointError
            The loss is no longer finite.
        dr_utils.store.CacheError
            The checkpoint cannot be written.
        """
        end, cuda = min(self.recipe.epochs, stop_after or self.recipe.epochs), self.device.type == "cuda"
        name = hardware_name(self.device)
        name = name if cuda else f"{name.rpartition(', ')[0]}, {torch.get_num_threads()} threads"
        if name not in self.progress.hardware:
            self.progress.hardware.append(name)
        left = max(0, end - self.progress.epoch) * self.steps
        with (
            progress(total=left, desc=self.recipe.name, unit="batches") as bar,
            torch.backends.cudnn.flags(enabled=True, benchmark=cuda),
        ):
            while self.progress.epoch < end:
                self._epoch(bar)
        self.network.eval()
        return self

    def _epoch(self, bar) -> None:
        recipe, epoch, spent = self.recipe, self.progress.epoch, 0.0
        samples = Epoch(len(self._labels), self._samples, recipe.seed, epoch, self.device)
        # Apart from the augmentation's, so that adversarial and standard training see the same images.
        noise = torch.Generator(self.device).manual_seed(recipe.seed * 100_003 + epoch)
        total, side = torch.zeros((), device=self.device), image_side(epoch, recipe)
        for step in range(self.steps):
            start = time.monotonic()
            first = step * recipe.batch_size
            batch, rows = samples.batch(self._pixels, first, first + recipe.batch_size, side)
            total += self._step(batch, self._labels[rows], noise)
            self.optimiser.step(one_cycle(epoch * self.steps + step, self.steps * recipe.epochs, recipe.warmup))
            bar.update(1)
            spent += min(time.monotonic() - start, LONGEST_STEP)
        loss = float(total) / self.steps
        if not math.isfinite(loss):
            raise FloatingPointError(f"{recipe.name}: the loss is {loss} in epoch {epoch + 1}; lower its lr.")
        if self._collapsed(samples.order[:SAFEGUARD_IMAGES], noise):
            # This epoch is undone, and training goes on with an attack that networks do not learn to evade.
            self._load()
            self.progress.attack_steps = SAFE_STEPS
            return
        self.progress.losses.append(round(loss, 5))
        self.progress.epoch += 1
        self.progress.seconds += spent
        bar.set_description(f"{recipe.name}, epoch {epoch + 1} of {recipe.epochs}, loss {loss:.3f}")
        self._save()

    def _step(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        """Compute the gradients of the loss, and return it."""
        if self.recipe.training == "adversarial":
            # The attacked network is the one that will be judged: with running statistics, not the batch's.
            self.network.eval()
            # The same change per pixel for windows as for whole images.
            given = {"radius": self.recipe.radius * images.shape[-1] / IMAGES_SIDE, "generator": noise}
            if (steps := self.progress.attack_steps) == 1:
                images = attacks.single_step(self._score, images, labels, **given)
            else:
                images = attacks.pgd(self._score, images, labels, steps=steps, **given)
        self.network.train()
        with self._autocast():
            scores = self.network.all_logits(images)
        # Over nested heads the losses are summed, as Matryoshka training has it; other networks have one head.
        smoothing = self.recipe.label_smoothing
        loss = sum(cross_entropy(s.float(), labels, label_smoothing=smoothing) for s in scores)
        loss.backward()
        return loss.detach()

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self.network(images).float()

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _collapsed(self, rows: torch.Tensor, noise: torch.Generator) -> bool:
        if self.recipe.training != "adversarial" or self.progress.attack_steps != 1:
            return False
        self.network.eval()
        images, labels = to_batch(self._pixels[rows]), self._labels[rows]
        return attacks.safeguard(self._score, images, labels, radius=self.recipe.radius, generator=noise)

    def _save(self) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"optimiser/{name}": tensor for name, tensor in self.optimiser.tensors().items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        store.write("checkpoints", self.key, about=asdict(self.progress), arrays=arrays)

    def _load(self) -> None:
        """Go to the last checkpoint, or to the start if there is none."""
        self.network = build(self.recipe).to(self.device, memory_format=torch.channels_last)
        self.optimiser = Optimiser(self.network, self.recipe)
        self.progress = Progress(self.recipe.attack_steps)
        if found := store.read("checkpoints", self.key):
            parts: dict[str, dict] = {"network": {}, "optimiser": {}}
            for name, array in found.arrays.items():
                part, _, rest = name.partition("/")
                parts[part][rest] = torch.from_numpy(array)
            self.network.load_state_dict(parts["network"])
            self.optimiser.load(parts["optimiser"])
            self.progress = Progress(**found.about)
