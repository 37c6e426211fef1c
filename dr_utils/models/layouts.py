"""From the names of published weight files to those of our modules, and nothing missing, left over or misshapen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from dr_utils.models.cards import PublishedCard
from dr_utils.models.files import SAVE_AGAIN
from dr_utils.store import AssetError

State = dict[str, torch.Tensor]
RELEASES = "use the torch, torchvision and timm releases of requirements.lock"
# What DataParallel, torch.compile and a trainer's own attribute put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], what: str, file: str, advice: str = SAVE_AGAIN) -> None:
    """Give a module its weights, under its own names: all of them, and none left over.

    `what`, `file` and `advice` are what the message calls network and file, and what it says to do.

    Raises
    ------
    AssetError
        Keys missing, unexpected or of another shape: how many, and the first three.
    """
    own = module.state_dict()
    problems = {
        # Counters of training steps are not weights; half of all exporters leave them out.
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    parts = [
        f"{len(keys)} of {len(state if kind == 'unexpected' else own)} keys {kind} "
        f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if parts:
        raise AssetError(f"{file} does not fit {what}: {'; '.join(parts)}; {advice}.")
    module.load_state_dict(state, strict=False)


def rename(state: Mapping[str, torch.Tensor], rules: Iterable[tuple[str, str]]) -> State:
    """Replace, rule after rule, what a pattern matches in the names; AssetError if two tensors get one name."""
    renamed: State = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if key in renamed:
            raise AssetError(f"the weights hold {key} twice, under two names; get the published file.")
        renamed[key] = tensor
    return renamed


def without_prefixes(state: Mapping[str, torch.Tensor]) -> State:
    """Take off the prefixes of wrappers, where all names have them."""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return dict(state)


def read_layout(card: PublishedCard, state: State, module: nn.Module) -> tuple[State, list[str]]:
    """Bring the tensors of a published file into the names and axes of a module.

    Returns them for `fit`, and what of the file is not used; AssetError if the file contradicts itself or the card.
    """
    return _LAYOUTS[card.layout](card, state, module)


# ---------------------------------------------------------------- timm, torchvision

# torchvision's VGG16 has linear layers where timm has convolutions over the whole map, of the same weights.
_VGG = ((r"^classifier\.0\.", "pre_logits.fc1."), (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."))  # fmt: skip


def _plain(card: PublishedCard, state: State, module: nn.Module) -> tuple[State, list[str]]:
    state, own = without_prefixes(state), module.state_dict()
    if card.family != "vgg16":
        return state, []
    state = rename(state, _VGG)
    for key in state.keys() & own.keys():
        if key.startswith("pre_logits.") and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    return state, []


def _lite(card: PublishedCard, state: State, module: nn.Module) -> tuple[State, list[str]]:
    # The files name their tensors otherwise than timm, and have them in the same order.
    return dict(zip(module.state_dict(), state.values(), strict=True)), []


# ---------------------------------------------------------------- Keras


def _keras(card: PublishedCard, weights: State, module: nn.Module) -> tuple[State, list[str]]:
    """Keras' names: stages are numbered from 2, blocks are letters, and so are the branches in them."""
    state: State = {}

    def conv_and_norm(conv: str, norm: str, keras_conv: str, keras_norm: str) -> None:
        state[f"{conv}.weight"] = weights[f"{keras_conv}/kernel"].permute(3, 2, 0, 1)
        state[f"{norm}.weight"] = weights[f"{keras_norm}/gamma"]
        state[f"{norm}.bias"] = weights[f"{keras_norm}/beta"]
        # torchvision's convolutions have no bias; the normalisation subtracts it with the mean.
        state[f"{norm}.running_mean"] = weights[f"{keras_norm}/moving_mean"] - weights[f"{keras_conv}/bias"]
        state[f"{norm}.running_var"] = weights[f"{keras_norm}/moving_variance"]

    conv_and_norm("conv1", "bn1", "conv1", "bn_conv1")
    for stage in range(1, 5):
        for block, _ in enumerate(module.get_submodule(f"layer{stage}")):
            ours, theirs = f"layer{stage}.{block}", f"{stage + 1}{'abcdef'[block]}_branch"
            for i, branch in enumerate("abc", start=1):
                conv_and_norm(f"{ours}.conv{i}", f"{ours}.bn{i}", f"res{theirs}2{branch}", f"bn{theirs}2{branch}")
            if block == 0:
                conv_and_norm(f"{ours}.downsample.0", f"{ours}.downsample.1", f"res{theirs}1", f"bn{theirs}1")
    state["fc.weight"], state["fc.bias"] = weights["fc1000/kernel"].T, weights["fc1000/bias"]
    return state, []


# ---------------------------------------------------------------- robust models


# The longest first: each key belongs to the first part whose prefix it has.
_ROBUST = ("attacker.model.", "attacker.normalize.", "normalizer.", "model.", "")


def _robust(card: PublishedCard, state: State, module: nn.Module) -> tuple[State, list[str]]:
    """The names of the robustness library (github.com/MadryLab/robustness), which saves a network with its attacker.

    Under DataParallel there are the network, the same tensors once more, and its normalisation twice. Architectures
    that the library does not have itself, VGG16 among them, are wrapped again: module.model.model.*.
    """
    parts: dict[str, State] = {prefix: {} for prefix in _ROBUST}
    for key, tensor in state.items():
        key = key.removeprefix("module.")
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        parts[prefix][key.removeprefix(prefix)] = tensor
    copy, copied_normaliser, normaliser, model, unknown = parts.values()
    expected = {f"new_{what}": torch.tensor(getattr(card, what)).view(3, 1, 1) for what in ("mean", "std")}
    numbers = f"mean {card.mean} and std {card.std}"
    wrong = [f"{key} has no place in the layout of the robust models" for key in unknown or ([] if model else state)]
    wrong += [f"module.normalizer.{key} is not of {numbers}" for key in _differing(normaliser, expected)]
    if copied_normaliser:
        differing = _differing(copied_normaliser, expected)
        wrong += [f"module.attacker.normalize.{key} is not of {numbers}" for key in differing]
    if copy:
        wrong += [f"module.attacker.model.{key} is not that of module.model" for key in _differing(copy, model)]
    if wrong:
        raise AssetError(
            f"{card.file} contradicts itself or its card: {len(wrong)} of {len(state)} keys are not as they should be "
            f"(first: {wrong[0]}); get the published file of {card.name}."
        )
    left_out = ["module.attacker.normalize.* (the same)"] if copied_normaliser else []
    left_out += [f"{len(copy)} keys module.attacker.model.* (equal to the model's)"] if copy else []
    return without_prefixes(model), left_out


def _differing(found: State, expected: State) -> list[str]:
    """Names that only one of the two has, or whose tensors are not equal."""
    both = found.keys() & expected.keys()
    return sorted(found.keys() ^ expected.keys()) + sorted(key for key in both if not _same(found[key], expected[key]))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- AugReg

# As in github.com/google-research/vision_transformer (Steiner et al. 2022, "How to train your ViT?"), a JAX program:
# axes are the other way round, and each attention head has axes of its own. A file saved in the midst of training has
# the optimizer's state beside the weights.
_AUGREG = (
    (r"^opt/target/", ""), (r"^cls$", "cls_token"), (r"^embedding/", "patch_embed.proj."),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"), (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."), (r"LayerNorm_0/", "norm1."), (r"LayerNorm_2/", "norm2."),
    (r"MlpBlock_3/Dense_0/", "mlp.fc1."), (r"MlpBlock_3/Dense_1/", "mlp.fc2."),
    (r"MultiHeadDotProductAttention_1/out/", "attn.proj."), (r"MultiHeadDotProductAttention_1/(\w+)/", r"attn.\1."),
    (r"^head/", "head."), (r"(scale|kernel)$", "weight"),
)  # fmt: skip


def _augreg(card: PublishedCard, arrays: State, module: nn.Module) -> tuple[State, list[str]]:
    left_out = [key for key in arrays if key.startswith("opt/state/")]
    state = rename({key: array for key, array in arrays.items() if key not in left_out}, _AUGREG)
    for key, array in state.items():
        if key == "patch_embed.proj.weight":
            array = array.permute(3, 2, 0, 1)
        elif ".attn." in key and array.ndim > 1:
            array = array.flatten(0, 1) if ".proj." in key else array.flatten(-2)
        state[key] = array.T if array.ndim == 2 and key.endswith(".weight") else array
    for i in range(len(module.blocks)):
        for kind in ("weight", "bias"):
            parts = [f"blocks.{i}.attn.{part}.{kind}" for part in ("query", "key", "value")]
            if all(part in state for part in parts):
                state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([state.pop(part) for part in parts])
    return state, left_out


# ---------------------------------------------------------------- Matryoshka release


def _matryoshka(card: PublishedCard, state: State, module: nn.Module) -> tuple[State, list[str]]:
    state, own = without_prefixes(state), module.state_dict()
    for key, tensor in state.items():
        if key.endswith("blur_filter") and key in own and not _same(tensor, own[key]):
            raise AssetError(
                f"{card.file}: {key} is not the binomial blur that the release uses; get the published file."
            )
    heads = [key.removesuffix(".weight") for key in own if re.fullmatch(r"fc\.nesting_classifier_\d+\.weight", key)]
    return state, [f"{head} (head of the first {own[head + '.weight'].shape[1]})" for head in heads[:-1]]


_LAYOUTS: dict[str, Callable[[PublishedCard, State, nn.Module], tuple[State, list[str]]]] = {
    "timm": _plain, "mobilenet": _plain, "lite": _lite, "keras": _keras, "robust": _robust, "augreg": _augreg,
    "matryoshka": _matryoshka,
}  # fmt: skip
