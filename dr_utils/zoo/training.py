"""Train a small network: seeded, resumed after every epoch, on the CPU or a GPU."""

from __future__ import annotations

import io
import math
import time
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.datasets import ImageTask
from dr_utils.device import hardware_name, pick_device
from dr_utils.models.small import IMAGES_SIDE
from dr_utils.models.small_networks import SmallNetwork, build
from dr_utils.progress import progress
from dr_utils.zoo import Recipe, attacks
from dr_utils.zoo.data import Epoch, to_batch

PRECISIONS = ("auto", "float32", "bfloat16")
LONGEST_STEP = 60.0  # seconds; where a step took longer, the machine slept or the process was stopped
SAFEGUARD_IMAGES = 256
SAFE_STEPS = 3  # of the attack with which training goes on once single steps have failed
VERSION = 2  # raised by one whenever the same recipe and images would give other weights than before


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate: linear from 1/25 during `warmup` of the steps, then a cosine to 0."""
    top = warmup * total
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / max(total - top, 1)))


def image_side(epoch: int, recipe: Recipe) -> int:
    """Return the side in pixels of the images of this epoch: windows at first, then whole images."""
    return recipe.early_side if epoch < round(recipe.early_share * recipe.epochs) else IMAGES_SIDE


class Optimiser:
    """Steps of a network's weights: torch's Muon for hidden ones, its SGD or AdamW for the rest.

    Hidden weights are those of all convolutions and linear layers of the body but the first. Muon replaces the momentum
    of their gradient by the nearest matrix of orthonormal rows, so that all directions learn at the same pace: after
    four epochs 30 % of the validation images were right, with SGD at two rates 23 and 25 %. A layer without bias is
    followed by batch normalisation, to which longer weights mean nothing but a slower pace: they are kept at the square
    root of the number of outputs. Other weights decay. The network is on its device and has channels last already.

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; torch.optim.Muon.
    """

    def __init__(self, network: SmallNetwork, recipe: Recipe):
        rest = {"sgd": partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=True), "adamw": torch.optim.AdamW}
        if recipe.optimiser not in rest:
            raise unknown("optimiser", recipe.optimiser, rest)
        layers = [m for m in network.body.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        # Views: a step of Muon, which takes matrices only, is a step of the layer.
        self._views = [(m, nn.Parameter(_matrix(m.weight.data))) for m in layers[1:] if recipe.hidden_lr]
        if any(matrix.data_ptr() != layer.weight.data_ptr() for layer, matrix in self._views):
            raise ValueError("the network's weights must have channels last; use .to(memory_format=...) beforehand.")
        taken = {id(layer.weight) for layer, _ in self._views}
        # Biases, norms and tokens do not decay: they are scales and offsets, not weights of sums.
        others = [(p, p.ndim >= 2 and len(p) > 1) for p in network.parameters() if id(p) not in taken]
        self.parts = [rest[recipe.optimiser](_groups(others, recipe.lr, recipe.weight_decay))]
        if self._views:
            hidden = [(matrix, layer.bias is not None) for layer, matrix in self._views]
            groups = _groups(hidden, recipe.hidden_lr, recipe.weight_decay)
            self.parts.append(torch.optim.Muon(groups, momentum=recipe.momentum, ns_steps=4))
        self._network = network

    def step(self, share: float) -> None:
        """Step along the gradients, at this share of the peak learning rates, and forget them."""
        for layer, matrix in self._views:
            matrix.grad = _matrix(layer.weight.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = share * group["peak"]
            part.step()
        self._network.zero_grad()
        with torch.no_grad():
            for layer, matrix in self._views:
                if layer.bias is None:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """Give [out, in, H, W] as [out, H * W * in], the same memory where channels are last; a matrix as it is."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _groups(pairs: list[tuple[nn.Parameter, bool]], lr: float, decay: float) -> list[dict]:
    """Make the group of the parameters that decay, and that of the others."""
    groups = {yes: [parameter for parameter, decays in pairs if decays == yes] for yes in (True, False)}
    return [{"params": group, "lr": lr, "peak": lr, "weight_decay": yes * decay} for yes, group in groups.items()]


@dataclass
class Progress:
    """How far a training is, over all its runs: finished epochs, seconds spent on them and their mean losses.

    `attack_steps` are those of the attack in use, more than the recipe's once the safeguard stepped in; `hardware` is
    everything that the training ran on.
    """

    attack_steps: int
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)


class Training:
    """A network in training, from its last checkpoint if there is one.

    A training that was interrupted and goes on ends with the weights of one that was not, on the same hardware.
    Checkpoints are in the store under `key`, the hash of recipe, images and precision: another recipe starts afresh.

    Parameters
    ----------
    recipe : Recipe
    images : ImageTask
        Train images, with the recipe's number of classes.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
        "bfloat16" is autocast; "auto" takes it on CUDA devices that compute in it, float32 elsewhere.

    Raises
    ------
    ValueError
        Images of another number of classes, unknown device or precision.
    """

    def __init__(self, recipe: Recipe, images: ImageTask, *, device: str = "auto", precision: str = "auto"):
        if (found := len(images.classes)) != recipe.n_classes:
            raise ValueError(f"{recipe.name} has {recipe.n_classes} classes; the images given have {found}.")
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.recipe, self.images, self.device = recipe, images, pick_device(device)
        if precision == "auto":
            fit = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if fit else "float32"
        self.precision = precision
        about = {"recipe": recipe.as_dict(), "images": images.digest, "n": len(images), "precision": precision}
        self.key = store.key_of({"version": VERSION, **about})
        # 186 MB: small enough to be held where it is used, so that no batch crosses the bus.
        self._pixels, self._labels = (torch.from_numpy(x).to(self.device) for x in (images.images, images.labels))
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
        self.progress.hardware = list(dict.fromkeys([*self.progress.hardware, name]))
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
            start, first = time.monotonic(), step * recipe.batch_size
            batch, rows = samples.batch(self._pixels, first, first + recipe.batch_size, side)
            total += self._step(batch, self._labels[rows], noise)
            self._optimiser.step(one_cycle(epoch * self.steps + step, self.steps * recipe.epochs, recipe.warmup))
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
            steps = self.progress.attack_steps
            attack = attacks.single_step if steps == 1 else partial(attacks.pgd, steps=steps)
            # The same change per pixel for windows as for whole images.
            radius = self.recipe.radius * images.shape[-1] / IMAGES_SIDE
            images = attack(self._score, images, labels, radius=radius, generator=noise)
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

    def _parts(self) -> list:
        return [self.network, *self._optimiser.parts]

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in self._parts()], buffer)
        arrays = {"state": np.frombuffer(buffer.getbuffer(), np.uint8)}
        store.write("checkpoints", self.key, about=asdict(self.progress), arrays=arrays)

    def _load(self) -> None:
        """Go to the last checkpoint, or to the start if there is none."""
        self.network = build(self.recipe).to(self.device, memory_format=torch.channels_last)
        self._optimiser = Optimiser(self.network, self.recipe)
        self.progress = Progress(self.recipe.attack_steps)
        if found := store.read("checkpoints", self.key):
            self.progress = Progress(**found.about)
            file = io.BytesIO(found.arrays["state"])
            states = torch.load(file, map_location=self.device, weights_only=True)  # weights_only: no code is run
            for part, state in zip(self._parts(), states, strict=True):
                part.load_state_dict(state)
