"""AugReg's vision transformers in .npz files, named as in github.com/google-research/vision_transformer.

Steiner et al. 2022, "How to train your ViT?". timm reads these files; what it does not do, and this module does
before it, is to make sure that every array of the file is one that it uses, and of the shape it has here.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from torch import nn

from dr_utils.checks import short
from dr_utils.models.paper.cards import PaperCard
from dr_utils.store import AssetError

N_CLASSES = 1000
_TARGET, _OPTIMIZER = "opt/target/", "opt/state/"


def build(card: PaperCard) -> nn.Module:
    """Build timm's vision transformer with random weights and an ImageNet-1k head."""
    import timm

    return timm.create_model(card.architecture, pretrained=False, num_classes=N_CLASSES)


def split(module: nn.Module, card: PaperCard) -> tuple[nn.Module, nn.Module]:
    """Take the head off, as timm does: what is left ends in the class token after the final norm."""
    head = module.get_classifier()
    module.reset_classifier(0)
    return module, head


def expected_arrays(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that a file must have for this vision transformer, without the file's prefix."""
    dim, heads, (height, width) = module.embed_dim, module.blocks[0].attn.num_heads, module.patch_embed.patch_size
    hidden = module.blocks[0].mlp.fc1.out_features
    inner = (heads, dim // heads)
    norm = {"scale": (dim,), "bias": (dim,)}
    block = {
        **{f"LayerNorm_{i}/{part}": shape for i in (0, 2) for part, shape in norm.items()},
        "MlpBlock_3/Dense_0/kernel": (dim, hidden),
        "MlpBlock_3/Dense_0/bias": (hidden,),
        "MlpBlock_3/Dense_1/kernel": (hidden, dim),
        "MlpBlock_3/Dense_1/bias": (dim,),
        "MultiHeadDotProductAttention_1/out/kernel": (*inner, dim),
        "MultiHeadDotProductAttention_1/out/bias": (dim,),
    }
    for part in ("query", "key", "value"):
        block[f"MultiHeadDotProductAttention_1/{part}/kernel"] = (dim, *inner)
        block[f"MultiHeadDotProductAttention_1/{part}/bias"] = inner
    return {
        "cls": (1, 1, dim),
        "embedding/kernel": (height, width, 3, dim),
        "embedding/bias": (dim,),
        "Transformer/posembed_input/pos_embedding": tuple(module.pos_embed.shape),
        **{f"Transformer/encoder_norm/{part}": shape for part, shape in norm.items()},
        **{f"Transformer/encoderblock_{i}/{k}": s for i in range(len(module.blocks)) for k, s in block.items()},
        "head/kernel": (dim, module.num_classes),
        "head/bias": (module.num_classes,),
    }


def read(module: nn.Module, card: PaperCard, path: Path) -> list[str]:
    """Give the module the weights of an .npz file; return what of the file was left out.

    Raises
    ------
    AssetError
        Damaged, arrays that only a pickle could read, or arrays missing, unexpected or of another shape.
    """
    found = _shapes(path, card)
    prefix = _TARGET if any(name.startswith(_TARGET) for name in found) else ""
    # A file saved in the midst of training has the optimizer's state beside the weights.
    left_out = [name for name in found if prefix and name.startswith(_OPTIMIZER)]
    expected = {prefix + name: shape for name, shape in expected_arrays(module).items()}
    theirs = {name: shape for name, shape in found.items() if name not in left_out}
    problems = {
        "missing": [name for name in expected if name not in theirs],
        "unexpected": [name for name in theirs if name not in expected],
        "of another shape": [
            f"{name} {list(theirs[name])} for {list(shape)}"
            for name, shape in expected.items()
            if theirs.get(name, shape) != shape
        ],
    }
    if any(problems.values()):
        parts = [
            f"{len(names)} of {len(theirs if what == 'unexpected' else expected)} arrays {what} "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        ]
        raise AssetError(
            f"{path.name} does not fit {card.name} ({card.architecture}): {'; '.join(parts)}; get {card.address}."
        )
    module.load_pretrained(str(path))
    return left_out


def _shapes(path: Path, card: PaperCard) -> dict[str, tuple[int, ...]]:
    """Read every array once: a damaged one is met here, and one of objects, which only a pickle holds, is refused."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].shape for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise AssetError(
            f"{path.name} is refused: damaged, cut short, or no .npz file of plain arrays "
            f"({type(error).__name__}: {short(error, 120)}); nothing in it was run. Get {card.address}."
        ) from error
