"""What computes: a module read at one of its layers, its normalisation before it, and pooling to a vector per image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown

_SHOWN = 10


class Backbone(nn.Module):
    """A body with `width` features and the normalisation of its input, as `Network.preprocessing` gives it."""

    def __init__(self, body: nn.Module, width: int, preprocessing: Mapping):
        super().__init__()
        self.body, self.width = body, width
        self.flips = preprocessing["channel_order"] == "BGR"
        # One multiplication and one addition, rounded to float32 last. Not weights: left out of the state dict.
        scale = [preprocessing["range"] / std for std in preprocessing["std"]]
        shift = [-mean / std for mean, std in zip(preprocessing["mean"], preprocessing["std"], strict=True)]
        self.register_buffer("_scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

    @property
    def head(self) -> nn.Module | None:
        """The last linear layer, from features to class scores, where there is one."""
        return getattr(self.body, "head", None)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn RGB images in [0, 1], [B, 3, H, W], into what the body was trained on; ValueError if they are not."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point [B, 3, H, W], RGB in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)}: divide uint8 pixels by 255 and put the channels second."
            )
        return (images.flip(1) if self.flips else images) * self._scale + self._shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute float32 features [B, width] of RGB images [B, 3, H, W] in [0, 1]."""
        features = self.body(self.normalise(images)).float()
        if features.shape[1] != self.width:
            raise ValueError(
                f"images of {images.shape[-1]} pixels give {features.shape[1]} features, not {self.width}: read "
                "without pooling, a layer has as many as the images' side decides; open the network with that side."
            )
        return features


class Tapped(nn.Module):
    """A module read at one of its layers, pooled to a vector per image.

    Parameters
    ----------
    module : nn.Module
        From normalised images [B, 3, H, W]; it runs whole. A layer that is called more than once in a pass gives what
        came last.
    layer : str, optional
        Name of a submodule, or of a node of torchvision's graph of the module; by default the module's output is read.
    head : bool
        Whether the layer is the head: its input is read instead of its output.
    pool : {"mean", "token", "flat"}
        What becomes of tokens [B, N, D]: their mean, or the first one, which is the class token where there is one.
        Maps are averaged over their positions either way, see `layout_of`; "flat" makes every position of maps and
        tokens a feature of its own.
    kind : str
        How the message calls a layer; `left_out` is what of the weight file was not used.

    Raises
    ------
    ValueError
        There is no such layer; the message offers the nearest names.
    """

    def __init__(
        self, module: nn.Module, layer: str | None = None, *, head: bool = False, pool: str = "mean",
        kind: str = "layer", left_out=(),
    ):  # fmt: skip
        super().__init__()
        self.module, self.layer, self.pool, self.left_out = module, layer, pool, left_out
        self.where = "the output" if layer is None else f"{'the input' if head else 'the output'} of layer {layer!r}"
        self._head = layer if head else None
        self._seen: list = []
        if layer is None:
            return
        if layer and layer in dict(module.named_modules()):
            at = module.get_submodule(layer)
            if head:
                # Narrow heads read the first neurons only.
                read = getattr(at, "in_features", None)
                at.register_forward_pre_hook(lambda _, given: self._see(given[0][..., :read]))
            else:
                at.register_forward_hook(lambda _, given, output: self._see(output))
        elif layer in (names := layers_of(module)):
            from torchvision.models.feature_extraction import create_feature_extractor

            # Another module of the same weights, without what comes after the node.
            self.module = create_feature_extractor(module, {layer: layer})
            self.module.register_forward_hook(lambda _, given, output: self._see(output[layer]))
        else:
            raise unknown(kind, layer, nearest_first(str(layer), names)[:_SHOWN],
                          hint=f"These are the nearest of {len(names)}; layer_names(model) gives all.")  # fmt: skip

    def _see(self, output) -> None:
        # A copy, as what follows may work in place.
        self._seen.append(output.clone() if isinstance(output, torch.Tensor) else output)

    @property
    def head(self) -> nn.Module | None:
        """The last linear layer, where its input is read."""
        return self.module.get_submodule(self._head) if self._head else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, D] of normalised images [B, 3, H, W]."""
        self._seen.clear()
        output = self.module(images)
        if self.layer is not None:  # nothing where it is not reached
            output = self._seen.pop() if self._seen else None
        layout = layout_of(output, len(images), self.where, self.pool)
        if self.pool == "flat":
            return output.flatten(1)
        if layout == "tokens":
            return output[:, 0] if self.pool == "token" else output.mean(1)
        if layout == "vectors":
            return output
        return output.mean((2, 3) if layout == "maps" else (1, 2))

    def probe(self, side: int) -> torch.Tensor:
        """Run one image of noise, then two, always the same; return features [2, D].

        Raises
        ------
        ValueError
            The module fails on images of this side, or the layer gives nothing that can be pooled.
        """
        noise = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0))
        for images in (noise[:1], noise):  # a program may have been saved for one number of images only
            try:
                with torch.inference_mode():
                    features = self(images).float()
            except NoFeatures:
                raise
            except Exception as error:  # whatever somebody's forward pass may raise
                raise ValueError(
                    f"the network fails on images of shape {list(images.shape)} ({type(error).__name__}: "
                    f"{short(error)}); give the side that it takes as side=..., and see that it takes any batch size."
                ) from error
        return features


class NoFeatures(ValueError):
    """A layer gives nothing that can be pooled to a vector per image."""


def layout_of(output, n_images: int, where: str, pool: str = "mean") -> str:
    """Say how a layer's output for square images is laid out; `where` is how messages call it.

    Returns
    -------
    {"vectors", "tokens", "maps", "maps_channels_last"}
        [B, D], [B, N, D], [B, C, H, W] or [B, H, W, C]. Images are square, so a map's two equal axes are its positions;
        Swin and the insides of ConvNeXt have channels last. If all three are equal, channels are taken to come first.

    Raises
    ------
    NoFeatures
        Not a tensor, not one entry per image, of another number of axes, or no tokens where one is asked for.
    """
    if output is None:
        raise NoFeatures(f"{where} is not computed in a forward pass; ask for another layer.")
    if not isinstance(output, torch.Tensor):
        raise NoFeatures(
            f"{where} is a {type(output).__name__}, not one tensor; ask for a layer whose output is a tensor, "
            "or wrap the network in a module that returns one."
        )
    shape = tuple(output.shape)
    if len(shape) not in (2, 3, 4) or shape[0] != n_images or not output.is_floating_point():
        raise NoFeatures(
            f"{where} has shape {shape} and type {output.dtype} for {n_images} images; expected floating point "
            "[B, D], tokens [B, N, D] or a map [B, C, H, W]: ask for another layer."
        )
    if pool == "token" and len(shape) != 3:
        raise NoFeatures(f"{where} has shape {shape}, no tokens [B, N, D] to take the first of; use pool='mean'.")
    if len(shape) == 4:
        return "maps_channels_last" if shape[1] == shape[2] != shape[3] else "maps"
    return "vectors" if len(shape) == 2 else "tokens"


def layers_of(module: nn.Module) -> list[str]:
    """Return the names of a module's layers: its submodules, then the other nodes of its graph if it has one."""
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        nodes = get_graph_node_names(module, suppress_diff_warning=True)[1][1:]  # the first is the images themselves
    except Exception:  # a forward pass that branches on its input has no graph, and need not have one
        nodes = []
    return list(dict.fromkeys([name for name, _ in module.named_modules() if name] + nodes))


def head_of(module: nn.Module, side: int) -> str | None:
    """Return the name of the linear layer that gives a module's output: the last one called, if it has that shape.

    The order in which layers were defined says nothing sure, so a forward pass is run. None if there is none, or if the
    module fails, which `Tapped.probe` reports.
    """
    calls: list[tuple[str, torch.Size]] = []
    handles = [
        part.register_forward_hook(lambda _, given, output, name=name: calls.append((name, output.shape)))
        for name, part in module.named_modules()
        if name and isinstance(part, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            output = module(torch.zeros(2, 3, side, side))
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()
    return calls[-1][0] if calls and calls[-1][1] == getattr(output, "shape", None) else None


def weight_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):  # a counter of training steps, not a weight
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
