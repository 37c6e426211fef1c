"""Train a small network, resumed after every epoch, and store its weights in float16 with a card beside them."""

from __future__ import annotations

import io
import json
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from dr_utils import store
from dr_utils.datasets import ImageTask
from dr_utils.device import hardware_name, pick_device
from dr_utils.models.cards import IMAGES_SIDE, WEIGHTS, Card, read_card, weights_path
from dr_utils.models.small_networks import SmallNetwork, build
from dr_utils.progress import clock, progress
from dr_utils.zoo import RECIPES, Recipe, attacks
from dr_utils.zoo.data import batches, load_images

VERSION = 3  # raised by one whenever the same recipe and images would give other weights than before


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate: linear from 1/25 during `warmup` of the steps, then a cosine to 0."""
    top = warmup * total
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / max(total - top, 1)))


def decorrelation(features: torch.Tensor) -> torch.Tensor:
    """Return half the sum of squared covariances between different features [B, D] (Cogswell et al. 2016, eq. 1)."""
    centred = features.float() - features.float().mean(dim=0)
    covariance = centred.T @ centred / len(features)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / 2


class Optimiser:
    """Torch's Muon (Jordan et al. 2024) for all layers of the body but the first, its SGD or AdamW for the rest.

    With Muon, four epochs got 30 % of the validation images right, with SGD at two rates 23 and 25 %. Batch
    normalisation follows layers without bias, so longer weights would only slow them: their length stays the same.
    """

    def __init__(self, network: SmallNetwork, recipe: Recipe):
        self._network = network.to(memory_format=torch.channels_last)  # so that `_matrix` gives views
        layers = [m for m in network.body.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        # Views: a step of Muon, which takes matrices only, is a step of the layer.
        self._views = [(layer, nn.Parameter(_matrix(layer.weight.data))) for layer in layers[1:]]
        taken = {id(layer.weight) for layer in layers[1:]}
        # Biases, norms and tokens do not decay: they are scales and offsets, not weights of sums.
        others = [(p, p.ndim >= 2 and len(p) > 1) for p in network.parameters() if id(p) not in taken]
        hidden = [(matrix, layer.bias is not None) for layer, matrix in self._views]
        sgd = partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=True)
        rest = torch.optim.AdamW if recipe.optimiser == "adamw" else sgd
        muon = partial(torch.optim.Muon, momentum=recipe.momentum, ns_steps=4)
        groups = partial(_groups, decay=recipe.weight_decay)
        self.parts = [rest(groups(others), lr=recipe.lr), muon(groups(hidden), lr=recipe.hidden_lr)]

    def step(self, share: float) -> None:
        """Step along the gradients, at this share of the peak learning rates, and forget them."""
        for layer, matrix in self._views:
            matrix.grad = _matrix(layer.weight.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = share * part.defaults["lr"]
            part.step()
        self._network.zero_grad()
        with torch.no_grad():
            for layer, matrix in self._views:
                if layer.bias is None:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """View [out, in, H, W] with channels last as [out, H * W * in]; a matrix as it is."""
    return weight.movedim(1, -1).flatten(1)


def _groups(pairs: list[tuple[nn.Parameter, bool]], decay: float) -> list[dict]:
    """Make the group of the parameters that decay, and that of the others."""
    return [{"params": [p for p, d in pairs if d == yes], "weight_decay": yes * decay} for yes in (True, False)]


class Training:
    """A network in training on `images`: if it is interrupted, it ends with the same weights on the same hardware."""

    def __init__(self, recipe: Recipe, images: ImageTask, *, device: str = "auto", precision: str = "auto"):
        self.recipe, self.images, self.device = recipe, images, pick_device(device)
        if precision == "auto":
            fit = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if fit else "float32"
        self.precision = precision
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        about = {"recipe": recipe.as_dict(), "images": images.digest, "n": len(images), "precision": precision}
        self.key = store.key_of({"version": VERSION, **about})
        # 186 MB: small enough to be held where it is used, so that no batch crosses the bus.
        self._pixels, self._labels = (torch.from_numpy(x).to(self.device) for x in (images.images, images.labels))
        # Batch normalisation wants full batches: the few samples left over wait for another epoch's order.
        self.steps = max(1, round(len(images) * recipe.repeats) // recipe.batch_size)
        self.network = build(recipe).to(self.device)
        self._optimiser = Optimiser(self.network, recipe)
        # Over all runs: epochs that are finished, their seconds and mean losses, and everything that they ran on.
        self.progress = SimpleNamespace(epoch=0, seconds=0.0, losses=[], hardware=[])
        if found := store.read("checkpoints", self.key):
            self.progress = SimpleNamespace(**found.about)
            file = io.BytesIO(found.arrays["state"])
            states = torch.load(file, map_location=self.device, weights_only=True)
            for part, state in zip((self.network, *self._optimiser.parts), states, strict=True):
                part.load_state_dict(state)

    def run(self) -> Training:
        """Train to the last epoch and return the training itself; FloatingPointError if the loss is not finite."""
        left = (self.recipe.epochs - self.progress.epoch) * self.steps
        with progress(total=left, desc=self.recipe.name, unit="batches") as bar:
            while self.progress.epoch < self.recipe.epochs:
                self._epoch(bar)
        self.network.eval()
        return self

    def _epoch(self, bar) -> None:
        recipe, epoch, begun = self.recipe, self.progress.epoch, time.monotonic()
        # Apart from the augmentation's, so that adversarial and standard training see the same images.
        noise = torch.Generator(self.device).manual_seed(recipe.seed * 100_003 + epoch)
        total = torch.zeros((), device=self.device)
        for step, (images, rows) in enumerate(batches(self._pixels, recipe, epoch, self.steps), epoch * self.steps):
            total += self._step(images, self._labels[rows], noise)
            self._optimiser.step(one_cycle(step, self.steps * recipe.epochs, recipe.warmup))
            bar.update(1)
        loss = float(total) / self.steps
        if not math.isfinite(loss):
            raise FloatingPointError(f"{recipe.name}: the loss is {loss} in epoch {epoch + 1}; lower its lr.")
        self.progress.losses.append(round(loss, 5))
        self.progress.epoch += 1
        self.progress.seconds += time.monotonic() - begun
        self.progress.hardware = list(dict.fromkeys([*self.progress.hardware, hardware_name(self.device)]))
        bar.set_description_str(f"{recipe.name}, epoch {epoch + 1} of {recipe.epochs}, loss {loss:.3f}")
        self._save()

    def _step(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        if self.recipe.training == "adversarial":
            # The attacked network is the one that will be judged: with running statistics, not the batch's.
            self.network.eval()
            # The same change per pixel for windows as for whole images.
            steps, radius = self.recipe.attack_steps, self.recipe.radius * images.shape[-1] / IMAGES_SIDE
            # A single step starts nearer: most of a ball's points lie near its surface and waste much of it.
            single = {"step_size": 1.25 * radius, "start_radius": radius / 2} if steps == 1 else {}
            attack = {"radius": radius, "steps": steps, "generator": noise, **single}
            images = attacks.pgd(self._score, images, labels, **attack)
        self.network.train()
        with self._autocast:
            features = self.network.features(images)
            penalty = self.recipe.decov * decorrelation(features) if self.recipe.decov else 0.0
            if share := self.recipe.dropout:
                kept = torch.rand(features.shape, generator=noise, device=features.device) >= share
                features = features * kept / (1 - share)
            scores = self.network.scores(features)
        # Over nested heads the losses are summed, as Matryoshka training has it; other networks have one head.
        smoothing = self.recipe.label_smoothing
        loss = sum(cross_entropy(s.float(), labels, label_smoothing=smoothing) for s in scores) + penalty
        loss.backward()
        return loss.detach()

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast:
            return self.network(images).float()

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in (self.network, *self._optimiser.parts)], buffer)
        arrays = {"state": np.frombuffer(buffer.getbuffer(), np.uint8)}
        store.write("checkpoints", self.key, about=vars(self.progress), arrays=arrays)


def count_multiply_adds(network: SmallNetwork) -> int:
    """Count multiply-adds of one image through convolutions, linear layers and attention's products."""
    image = torch.zeros(1, 3, IMAGES_SIDE, IMAGES_SIDE, device=next(network.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return counter.get_total_flops() // 2


def store_weights(trained: Training, images: ImageTask, folder: Path | str = WEIGHTS) -> Card:
    """Store a trained network in float16, measure it as stored on validation `images`, and write its card last."""
    recipe, network, at = trained.recipe, trained.network, trained.progress
    # Without the counters of training steps, which are not weights.
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {key: tensor.to("cpu", torch.float16).contiguous() for key, tensor in state.items()}
    path = weights_path(recipe.name, folder)
    with store.atomic_path(path) as part:
        save_file(state, part)
        part.chmod(0o644)  # safetensors keeps files to their owner; these are installed for everybody
    network.load_state_dict(state, strict=False)
    measured = attacks.evaluate(network, images, radius=recipe.radius, device=trained.device)
    card = Card(
        **{key: getattr(recipe, key) for key in ("name", "title", "family", "training", "robust_of")},
        width=recipe.head_reads, upstream=f"tinyimagenet{recipe.n_classes}", kind="small", recipe=recipe.as_dict(),
        upstream_images=len(trained.images), upstream_classes=recipe.n_classes, upstream_sha256=trained.images.digest,
        epochs=at.epoch, attack_steps=recipe.attack_steps if recipe.training == "adversarial" else 0,
        **{key: round(value, 5) for key, value in measured.items()}, robust_radius=recipe.radius,
        robust_steps=attacks.EVALUATION_STEPS, validation_images=len(images),
        parameters=sum(p.numel() for p in network.parameters()), multiply_adds=count_multiply_adds(network),
        training_seconds=round(at.seconds, 1), hardware=" and ".join(at.hardware), precision=trained.precision,
        sha256=store.sha256_of(path),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )  # fmt: skip
    with store.atomic_path(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card


def train_networks(
    names: Iterable[str], data: Path | str, out: Path = WEIGHTS, *, limit: int | None = None, device: str = "auto",
    precision: str = "auto", **changes,
) -> None:  # fmt: skip
    """Train, measure and store networks that `out` lacks; `limit` is of each split, `changes` are of the recipes."""
    recipes = [replace(RECIPES[name], **changes) for name in names]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror}); choose another folder with --out.") from error
    for i, recipe in enumerate(recipes, start=1):
        label, wanted = f"[{i}/{len(recipes)}] {recipe.name}", {"n_classes": recipe.n_classes, "limit": limit}
        images, val = (load_images(data, split, **wanted) for split in ("train", "val"))
        card = read_card(recipe.name, out)
        if card is not None and (card.recipe, card.upstream_images) == (recipe.as_dict(), len(images)):
            print(f"{label}: kept, trained earlier", flush=True)
            continue
        training = Training(recipe, images, device=device, precision=precision)
        print(f"{label}: {recipe.epochs} epochs on {training.device}, {len(images)} images", flush=True)
        card = store_weights(training.run(), val, out)
        store.path_of("checkpoints", training.key).unlink(missing_ok=True)
        found = f"clean {card.clean_accuracy:.3f}, robust {card.robust_accuracy:.3f}"
        print(f"{label}: {found}, {clock(card.training_seconds)} of training", flush=True)
