"""Any layer of a network as one vector per image: which layers there are, and how maps and tokens are pooled."""

from __future__ import annotations

import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown

_SHOWN = 10


class Tapped(nn.Module):
    """A module read at one of its layers, pooled to a vector per image.

    Parameters
    ----------
    module : nn.Module
        From normalised images [B, 3, H, W]; it runs whole. A layer that is called more than once in a pass gives what
        came last.
    layer : str, optional
        Name of the submodule that is read; by default the module's own output is.
    reads_input : bool
        Whether the submodule's first input is read instead of its output.
    key : str, optional
        Where the module gives a dictionary: which entry is read.
    pool : {"mean", "token", "flat"}
        What becomes of tokens [B, N, D]: their mean, or the first one, which is the class token where there is one.
        Maps are averaged over their positions either way, see `layout_of`; "flat" makes every position of maps and
        tokens a feature of its own.
    """

    def __init__(
        self, module: nn.Module, layer: str | None = None, *, reads_input: bool = False, key: str | None = None,
        pool: str = "mean",
    ):  # fmt: skip
        super().__init__()
        self.module, self.layer, self.key, self.pool = module, layer, key, pool
        self.where = f"the output of node {key!r}" if key else "the output"
        self._seen: list = []
        if layer is not None:
            self.where = f"{'the input' if reads_input else 'the output'} of layer {layer!r}"
            at = module.get_submodule(layer)
            if reads_input:
                at.register_forward_pre_hook(lambda _, given: self._seen.append(given[0]))
            else:
                at.register_forward_hook(lambda _, given, output: self._seen.append(output))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, D] of normalised images [B, 3, H, W]."""
        return self._pooled(self._run(images), len(images))

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
                    output = self._run(images)
            except Exception as error:  # whatever somebody's forward pass may raise
                raise ValueError(
                    f"the network fails on images of shape {list(images.shape)} ({type(error).__name__}: "
                    f"{short(error)}); give the side that it takes as side=..., and see that it takes any batch size."
                ) from error
            features = self._pooled(output, len(images))
        return features.float()

    def _run(self, images: torch.Tensor):
        """What the layer gives; nothing where it is not reached."""
        self._seen.clear()
        output = self.module(images)
        if self.layer is None:
            return output[self.key] if self.key else output
        return self._seen.pop() if self._seen else None

    def _pooled(self, output, n_images: int) -> torch.Tensor:
        if output is None and self.layer is not None:
            raise ValueError(f"{self.where} is not computed in a forward pass; ask for another layer.")
        layout = layout_of(output, n_images, self.where, self.pool)
        if self.pool == "flat":
            return output.flatten(1)
        if layout == "tokens":
            return output[:, 0] if self.pool == "token" else output.mean(1)
        if layout == "vectors":
            return output
        return output.mean((2, 3) if layout == "maps" else (1, 2))


def layout_of(output, n_images: int, where: str, pool: str = "mean") -> str:
    """Say how a layer's output for square images is laid out.

    Images are square, so a map's two equal axes are its positions: [B, C, H, W], or [B, H, W, C] as Swin and the
    insides of ConvNeXt have it. If all three are equal, channels are taken to come first.

    Parameters
    ----------
    output : object
    n_images : int
        B.
    where : str
        How the message calls the layer.
    pool : {"mean", "token", "flat"}

    Returns
    -------
    {"vectors", "tokens", "maps", "maps_channels_last"}
        [B, D], [B, N, D], [B, C, H, W] and [B, H, W, C].

    Raises
    ------
    ValueError
        Not a tensor, not one entry per image, of another number of axes, or no tokens where one is asked for.
    """
    if not isinstance(output, torch.Tensor):
        raise ValueError(
            f"{where} is a {type(output).__name__}, not one tensor; ask for a layer whose output is a tensor, "
            "or wrap the network in a module that returns one."
        )
    shape = tuple(output.shape)
    if len(shape) not in (2, 3, 4) or shape[0] != n_images or not output.is_floating_point():
        raise ValueError(
            f"{where} has shape {shape} and type {output.dtype} for {n_images} images; expected floating point "
            "[B, D], tokens [B, N, D] or a map [B, C, H, W]: ask for another layer."
        )
    if pool == "token" and len(shape) != 3:
        raise ValueError(f"{where} has shape {shape}, no tokens [B, N, D] to take the first of; use pool='mean'.")
    if len(shape) == 4:
        return "maps_channels_last" if shape[1] == shape[2] != shape[3] else "maps"
    return "vectors" if len(shape) == 2 else "tokens"


def tap(module: nn.Module, layer: str, pool: str = "mean", *, kind: str = "layer") -> Tapped:
    """Read a module at a layer: a name of `named_modules()`, or of torchvision's graph of it.

    `kind` is how the message calls it.

    Raises
    ------
    ValueError
        There is no such layer; the message offers the nearest names.
    """
    if layer and layer in dict(module.named_modules()):
        return Tapped(module, layer, pool=pool)
    if layer not in (names := names_in(module)):
        raise unknown(kind, layer, nearest_first(str(layer), names)[:_SHOWN],
                      hint=f"These are the nearest of {len(names)}; layer_names(model) gives all.")  # fmt: skip
    from torchvision.models.feature_extraction import create_feature_extractor

    # Another module of the same weights, without what comes after the node.
    return Tapped(create_feature_extractor(module, {layer: layer}), key=layer, pool=pool)


def names_in(module: nn.Module) -> list[str]:
    """Return the names of a module's layers: its submodules, then the other nodes of its graph if it has one."""
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        nodes = get_graph_node_names(module, suppress_diff_warning=True)[1]
    except Exception:  # a forward pass that branches on its input has no graph, and need not have one
        nodes = []
    # The first node is the images themselves.
    return list(dict.fromkeys([name for name, _ in module.named_modules() if name] + nodes[1:]))


def find_head(module: nn.Module, side: int) -> str | None:
    """Return the name of the linear layer that gives a module's output: the last one called, if it has that shape.

    Found by a forward pass, as the order in which layers were defined says nothing sure; None if there is none, or if
    the module fails, which `Tapped.probe` reports.
    """
    calls: list[tuple[str, torch.Size]] = []
    handles = [
        part.register_forward_hook(lambda _, given, output, name=name: calls.append((name, output.shape)))
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            output = module(torch.zeros(2, 3, side, side))
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()
    return calls[-1][0] if calls and calls[-1][0] and calls[-1][1] == getattr(output, "shape", None) else None
