"""The paper's profile from end to end on files made up in the published layouts: python tests/rehearsal.py FOLDER.

Writes random weights for the 21 networks as their makers publish them (2.9 GB), small made-up pictures in the layouts
of CIFAR-100, Pets, Flowers, ImageNet and ImageNetV2, and notebooks/profiles/paper.yaml with fewer images, pixels and
epochs; CIFAR-10 is the real one, from the registry. Then it runs notebooks 00 to 07 on these, as
`run_all.sh --profile paper --data` would. About 15 minutes on 2 cores. No number of it means anything; that every cell,
table, claim and figure comes about does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from test_models_paper import KERNEL, mrl_heads, released, shaken, to_arrays, wrapped
from torchvision import models as torchvision_models
from torchvision.datasets import CIFAR100, Flowers102

from dr_utils import datasets
from dr_utils.models import PAPER, published
from dr_utils.profiles import PROFILES

WNIDS = datasets.available()["imagenet1k"].classes
FOLDERS = {split: needs[0] for split, needs in datasets.available()["imagenet1k"].needs.items()}
RNG = np.random.default_rng(0)
PETS = ("Abyssinian", "american_bulldog", "Bengal", "boxer", "Bombay", "keeshond")
FLOWERS = ("rose", "lily", "tulip", "iris", "daisy", "poppy")
NOTEBOOKS = ("00", "01", "02", "03", "04", "05", "06", "07")

# Python imports a module of this name when it starts: in the run and in every kernel, the made-up sets then have the
# counts, classes and checksums that are expected.
PATCH = """
import json
import sys
from pathlib import Path

if any("dr_utils" in word or "ipykernel" in word for word in sys.orig_argv):
    from dataclasses import replace

    from torchvision.datasets import CIFAR100, Flowers102

    from dr_utils import datasets

    facts = json.loads(Path(__file__).with_name("facts.json").read_text())
    for name, (splits, classes) in facts["cards"].items():
        datasets.CARDS[name] = replace(datasets.CARDS[name], splits=splits, classes=tuple(classes))
    CIFAR100.train_list, CIFAR100.test_list = facts["cifar"]["train"], facts["cifar"]["test"]
    CIFAR100.meta = {**CIFAR100.meta, "md5": facts["cifar"]["meta"]}
    Flowers102._file_dict = {**Flowers102._file_dict, **facts["flowers"]}
"""


def picture(pattern: int, side: int | None = None) -> np.ndarray:
    """Draw waves that a class has in common, under noise that it has not."""
    height, width = (side, side) if side else RNG.integers(40, 70, 2)
    a, b, c, u, v = np.random.default_rng(pattern).normal(size=(5, 3))
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = a + b * np.sin(6 * u * x[..., None] + v) + c * np.cos(6 * v * y[..., None])
    return (127 + 25 * waves + RNG.normal(scale=45, size=waves.shape)).clip(0, 255).astype(np.uint8)


def save(path: Path, pattern: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(pattern)).save(path, "JPEG", quality=92)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_sets(data: Path) -> dict:
    """Write the pictures; return what the patch has to say of them."""
    folder = data / CIFAR100.base_folder
    folder.mkdir(parents=True)
    classes = [f"class {i}" for i in range(10)]
    for (file, _), size in ((CIFAR100.train_list[0], 200), (CIFAR100.test_list[0], 100)):
        labels = RNG.permutation(np.arange(size) % 10).tolist()
        planes = np.stack([picture(label, 32).transpose(2, 0, 1).reshape(-1) for label in labels])
        (folder / file).write_bytes(pickle.dumps({"fine_labels": labels, "data": planes}))
    meta = folder / CIFAR100.meta["filename"]
    meta.write_bytes(pickle.dumps({CIFAR100.meta["key"]: classes}))
    cifar = {kind: [[file, md5(folder / file)] for file, _ in getattr(CIFAR100, f"{kind}_list")]
             for kind in ("train", "test")} | {"meta": md5(meta)}  # fmt: skip

    folder = data / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 25), ("test", 15)):
        lines = []
        for label, name in enumerate(PETS, 1):
            for i in range(count):
                save(folder / "images" / f"{name}_{split}{i}.jpg", 20 + label)
                lines.append(f"{name}_{split}{i} {label} 1 1")
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(RNG.permutation(lines)) + "\n")

    folder, order = data / "flowers-102", RNG.permutation(240) + 1
    labels = np.empty(240, np.uint8)
    labels[order - 1] = np.arange(240) % len(FLOWERS) + 1
    for i in order:
        save(folder / "jpg" / f"image_{i:05d}.jpg", 40 + int(labels[i - 1]))
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    splits = {"trnid": order[None, :60], "valid": order[None, 60:120], "tstid": order[None, 120:]}
    savemat(folder / "setid.mat", splits)
    flowers = {key: [Flowers102._file_dict[key][0], md5(folder / Flowers102._file_dict[key][0])]
               for key in ("label", "setid")}  # fmt: skip

    wnids = WNIDS[5:15]
    for label, wnid in enumerate(wnids):
        for i in range(20):
            save(data / FOLDERS["train"] / wnid / f"{wnid}_{i}.JPEG", 60 + label)
        for i in range(10):
            save(data / FOLDERS["test"] / wnid / f"ILSVRC2012_val_{100 * label + i:08d}.JPEG", 60 + label)
            save(data / FOLDERS["imagenetv2"] / str(label) / f"{label}x{i}.jpeg", 60 + label)
    cards = {
        "cifar100": ({"train": 200, "test": 100}, classes),
        "pets": ({"train": 150, "test": 90}, [name.replace("_", " ").title() for name in PETS]),
        "flowers": ({"train": 60, "test": 120}, FLOWERS),
        "imagenet1k": ({"train": 200, "test": 100, "imagenetv2": 100}, wnids),
    }
    return {"cards": cards, "cifar": cifar, "flowers": flowers}


def blurred_trunk() -> dict[str, torch.Tensor]:
    """A ResNet50 in the names of the Matryoshka release, without its head."""
    module, state = shaken(torchvision_models.resnet50()), {}
    for key, value in module.state_dict().items():
        name, _, last = key.rpartition(".")
        part = module.get_submodule(name)
        if isinstance(part, torch.nn.Conv2d) and part.stride == (2, 2) and name != "conv1":
            state[f"{name}.blur_filter"] = KERNEL.expand(part.in_channels, 1, 3, 3).clone()
            name += ".conv"
        if name != "fc":
            state[f"{name}.{last}"] = value
    return state


def write_weights(folder: Path) -> None:
    """Write a file for each of the 21 networks."""
    folder.mkdir()
    trunk = blurred_trunk()
    for seed, card in enumerate(card for card in PAPER.values() if not card.extra):
        torch.manual_seed(seed)
        path = folder / card.file
        if card.layout == "timm":
            save_file(shaken(timm.create_model(card.architecture), seed).state_dict(), path)
        elif card.layout == "robust":
            torch.save({"model": wrapped(shaken(published.build(card)[0], seed)), "epoch": 89}, path)
        elif card.layout == "augreg":
            np.savez(path, **to_arrays(published.build(card)[0]))
        elif card.training == "mrl":
            torch.save(released(trunk | mrl_heads()), path)
        else:
            head = torch.nn.Linear(card.width, 1000).state_dict()
            torch.save(released(trunk | {f"fc.{key}": value for key, value in head.items()}), path)
        print(f"{card.file}: {path.stat().st_size / 1e6:.0f} MB", flush=True)


def small_profile() -> dict:
    """The paper's profile with fewer images, pixels and epochs; networks, tasks, grids and selections are its own."""
    content = yaml.safe_load((PROFILES / "paper.yaml").read_text())
    for task in content["tasks"].values():
        task["resolution"] = 48
    content["tasks"]["cifar10"] |= {"train": 200, "test": 100}
    content["tasks"]["imagenet1k"]["probe"] |= {"epochs": 5, "step_epochs": 2, "batch_size": 64}
    content["probe"] |= {"epochs": 8, "step_epochs": 3, "batch_size": 32}
    content["cka"]["images"] = 80
    content["extraction"] |= {"batch_size": 32, "augmentation": {"views": 1}}
    title = "a rehearsal: random weights and made-up pictures"
    return content | {"name": "rehearsal", "title": title}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder, or that of an earlier rehearsal, whose files are kept")
    parser.add_argument("--only", nargs="+", default=NOTEBOOKS, metavar="NN", help="(default: 00 to 07)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    patch, profile = folder / "patch", folder / "rehearsal.yaml"
    if not (patch / "facts.json").is_file():
        facts = write_sets(folder / "data")
        write_weights(folder / "data" / "weights")
        patch.mkdir()
        (patch / "sitecustomize.py").write_text(PATCH)
        (patch / "facts.json").write_text(json.dumps(facts))
    profile.write_text(yaml.safe_dump(small_profile(), sort_keys=False))
    command = [sys.executable, "-m", "dr_utils", "run", "--profile", str(profile), "--data", str(folder / "data")]
    command += ["--out", str(folder / "out"), "--device", options.device, "--only", *options.only]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(patch)}).returncode


if __name__ == "__main__":
    sys.exit(main())
