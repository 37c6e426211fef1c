"""The paper's networks: cards, the four published file layouts, what is refused, and the cards."""

from __future__ import annotations

import collections
import dataclasses
import io
import os
import pickle
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

import dr_utils
from dr_utils.models import PAPER as CARDS
from dr_utils.models import available, cards, check_network, load_model, published
from dr_utils.models.files import Inert, fit, read_weights
from dr_utils.reference import paper_network
from dr_utils.store import AssetError, sha256_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
FF = (8, 16, 32, 64, 128, 256, 512, 1024)
WIDTHS = {
    "resnet18_standard": 512, "resnet50_standard": 2048, "vgg16_standard": 4096, "wrn50_2_standard": 2048,
    "resnet18_l2_eps3": 512, "resnet50_l2_eps3": 2048, "wrn50_2_l2_eps3": 2048, "vgg16_l2_eps3": 4096,
    "vit_s16_imagenet21k": 384, "vit_s32_imagenet21k": 384, "vit_s16_imagenet1k": 384, "vit_s32_imagenet1k": 384,
    "resnet50_mrl": 2048, **{f"resnet50_ff{x}": x for x in FF},
}  # fmt: skip
EXTRAS = ("wrn50_4_standard", "wrn50_4_l2_eps3", "resnet50_linf_eps4", "resnet50_ff2048")
TABLE_1 = {
    "resnet18": "ResNet18", "resnet50": "ResNet50", "vgg16": "VGG16", "wrn50_2": "WRN50-2", "vit_s16": "ViT S-16",
    "vit_s32": "ViT S-32", "resnet50_mrl": "ResNet50",
}  # fmt: skip


def images(n=2, side=64, seed=1):
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(seed))


def normalised(x, mean=MEAN, std=STD):
    return (x - mean) / std


def shaken(module, seed=0):
    """The module with batch statistics that differ from channel to channel, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):  # small, or ReLU leaves nothing to compare
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(7)
    return module.eval()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A person's data folder."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("DR_DATA", str(tmp_path))
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path


def loaded(name, **options):
    """A network with its weights."""
    network = load_model(name, **options)
    assert not network.module.training
    return network


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def place(data, name):
    return data / "weights" / CARDS[name].file


# ---------------------------------------------------------------- cards


def test_the_names():
    assert {name: card.width for name, card in CARDS.items() if not card.extra} == WIDTHS and len(WIDTHS) == 21
    assert tuple(name for name, card in CARDS.items() if card.extra) == EXTRAS
    assert not CARDS.keys() & available().keys()
    for name, card in CARDS.items():
        assert (card.name, card.kind) == (name, "imagenet") and card.source and card.licence and card.title
        assert bool(card.robust_of) == (card.training == "adversarial")
        if card.robust_of:
            counterpart = CARDS[card.robust_of]
            assert (counterpart.training, counterpart.family) == ("standard", card.family)
            assert counterpart.width == card.width and card.title.startswith(counterpart.title + ", ")
        assert bool(card.hub) != bool(card.address)
    assert len({card.file for card in CARDS.values()}) == len({card.title for card in CARDS.values()}) == len(CARDS)


def test_training_and_upstream():
    trainings = collections.Counter(card.training for card in CARDS.values() if not card.extra)
    assert trainings == {"standard": 8, "adversarial": 4, "mrl": 1, "narrow": 8}
    assert [name for name, card in CARDS.items() if card.upstream != "imagenet1k"] == [
        "vit_s16_imagenet21k", "vit_s32_imagenet21k",
    ]  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_the_name_in_table_1(name):
    card = dataclasses.asdict(CARDS[name]) | {"model": name}
    stem = next((stem for stem in sorted(TABLE_1, key=len, reverse=True) if name.startswith(stem)), None)
    narrow = name.startswith("resnet50_ff")
    assert paper_network(card) == (None if narrow else TABLE_1.get(stem))
    assert paper_network(card) is not None or card["extra"] or narrow


def test_top1_is_what_was_reported():
    table = pd.read_csv(Path(dr_utils.__file__).parent / "data" / "reference_values.csv", dtype=str)
    text = table.apply(lambda row: "|".join(row.dropna()), axis=1)
    keys = {
        "resnet18_standard": "model: resnet18,", "resnet50_standard": "model: resnet50,",
        "vgg16_standard": "model: vgg16_bn,", "wrn50_2_standard": "model: wide_resnet50_2,",
        "wrn50_4_standard": "model: wide_resnet50_4,", "resnet50_ff2048": "model: resnet50_ff2048,",
        "vit_s16_imagenet1k": "ViT S-16 384 64", "vit_s32_imagenet1k": "ViT S-32 384 55",
        "resnet18_l2_eps3": "ResNet-18 l2 eps3|", "resnet50_l2_eps3": "ResNet-50 l2 eps3|",
        "wrn50_2_l2_eps3": "WRN-50-2 l2 eps3|", "wrn50_4_l2_eps3": "WRN-50-4 l2 eps3|",
        "vgg16_l2_eps3": "VGG16_bn l2 eps3|", "resnet50_linf_eps4": "ResNet-50 linf eps4/255|",
    }  # fmt: skip
    assert {name for name, card in CARDS.items() if card.top1 is not None} == keys.keys()
    for name, key in keys.items():
        found = table[text.str.contains(key, regex=False) & text.str.contains("top1_accuracy")]
        scale = found["quantity"].map({"top1_accuracy_percent": 100, "top1_accuracy": 1})
        numbers = found["value"].astype(float) / scale
        assert any(abs(CARDS[name].top1 - n) < 1e-9 for n in numbers), name


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.layout == "timm"])
def test_timm_says_the_same(name):
    card, theirs = CARDS[name], timm.get_pretrained_cfg(CARDS[name].architecture)
    assert (theirs.mean, theirs.std, theirs.hf_hub_id) == (card.mean, card.std, card.hub)
    assert theirs.license == card.licence.lower()
    assert theirs.num_classes == (21843 if card.upstream == "imagenet21k" else 1000)


@pytest.mark.parametrize("name", CARDS)
def test_every_architecture_has_its_width(name):
    with torch.device("meta"):
        network = loaded(name, pretrained=False)
        x = torch.empty(1, 3, 224, 224)
        assert network(x).shape == (1, CARDS[name].width) == (1, network.width)
        assert network.logits(x).shape == (1, 21843 if "21k" in name else 1000)
    assert not any(p.requires_grad for p in network.module.parameters())


# ---------------------------------------------------------------- robust models


class Schedule:
    """What a checkpoint may hold beside tensors: an object of somebody's class."""

    def __init__(self):
        self.best = np.float64(0.5)


def wrapped(model, inside="", **changes):
    """A state dict as the robustness library's wrapper has it."""
    state = {f"module.normalizer.{k}": v for k, v in (("new_mean", MEAN), ("new_std", STD))}
    state |= {f"module.model.{inside}{key}": value for key, value in model.state_dict().items()}
    state |= {f"module.attacker.normalize.{k}": v for k, v in (("new_mean", MEAN), ("new_std", STD))}
    state |= {f"module.attacker.model.{inside}{key}": value for key, value in model.state_dict().items()}
    return collections.OrderedDict(state | changes)


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(2)
    return shaken(torchvision_models.resnet18())


@torch.inference_mode()
def resnet_reference(module, x):
    """Features of a torchvision ResNet: its own forward pass, its head's input."""
    seen = []
    handle = module.fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(normalised(x))
    handle.remove()
    assert (seen[0] > 0).float().mean() > 0.1
    return seen[0]


FORMS = {
    "zip": ({}, ""),
    "before torch 1.6": ({"_use_new_zipfile_serialization": False}, ""),
    "wrapped twice": ({}, "model."),
}


@pytest.mark.parametrize("form", FORMS)
def test_robust_checkpoints(form, resnet18, data):
    options, inside = FORMS[form]
    optimizer = torch.optim.SGD(resnet18.parameters(), lr=0.1, momentum=0.9).state_dict()
    extras = {"optimizer": optimizer, "epoch": 90, "schedule": Schedule(), "prec1": np.float64(53.1)}
    torch.save({"model": wrapped(resnet18, inside), **extras}, place(data, "resnet18_l2_eps3"), **options)
    network = loaded("resnet18_l2_eps3")
    for side in (64, 97):
        x = images(side=side)
        torch.testing.assert_close(network(x), resnet_reference(resnet18, x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(network.logits(x), resnet18(normalised(x)), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(network.preprocessing["mean"], [0.485, 0.456, 0.406])
    assert not any(p.requires_grad for p in network.module.parameters()) and network.card is CARDS["resnet18_l2_eps3"]


def changed(key, value=None):
    def change(state):
        state[key] = state[key] + 1 if value is None else value

    return change  # fmt: skip


CONV = "layer1.0.conv1.weight"
REFUSED = {
    "missing": (lambda s: s.pop(f"module.model.{CONV}"),
                rf'Missing key\(s\) in state_dict: "{CONV}"\.\); get the published resnet18_l2_eps3.ckpt'),
    "unexpected": (lambda s: s.update({"module.model.more": torch.ones(1)}), r'Unexpected key\(s\) .*: "more"'),
    "no part": (lambda s: s.update({"module.other.x": torch.ones(1)}), "does not fit resnet18_l2_eps3 "),
    "no tensor": (changed(f"module.model.{CONV}", "text"), "not tensors by name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_robust_checkpoints_that_are_refused(case, resnet18, data):
    change, message = REFUSED[case]
    state = wrapped(resnet18)
    change(state)
    torch.save({"model": state, "epoch": 1}, place(data, "resnet18_l2_eps3"))
    with pytest.raises(AssetError, match=message) as error:
        loaded("resnet18_l2_eps3")
    assert "\n" not in str(error.value) and "resnet18_l2_eps3.ckpt" in str(error.value)


def test_another_architecture_and_a_truncated_file(resnet18, data):
    torch.save({"model": wrapped(resnet18)}, place(data, "resnet50_l2_eps3"))
    with pytest.raises(AssetError, match=r"does not fit resnet50_l2_eps3 \(resnet50\) \(.*Missing key"):
        loaded("resnet50_l2_eps3")
    content = place(data, "resnet50_l2_eps3").read_bytes()
    for n_bytes in (len(content) // 2, 100, 0):
        place(data, "resnet18_l2_eps3").write_bytes(content[:n_bytes])
        with pytest.raises(AssetError, match=r"resnet18_l2_eps3.ckpt is refused \(.*\): damaged"):
            loaded("resnet18_l2_eps3")


def test_vgg16_ends_after_its_second_hidden_layer():
    torch.manual_seed(3)
    module, head_name = published.build(CARDS["vgg16_l2_eps3"])
    shaken(module)
    x = normalised(images(side=64))
    with torch.inference_mode():
        pooled = module.avgpool(module.features(x)).flatten(1)
        linear = module.classifier
        hidden = F.relu(F.linear(pooled, linear[0].weight, linear[0].bias))
        expected = F.relu(F.linear(hidden, linear[3].weight, linear[3].bias))
        head = module.get_submodule(head_name)
        module.set_submodule(head_name, nn.Identity())
        torch.testing.assert_close(module(x), expected)
    assert head.in_features == 4096 and (expected > 0).float().mean() > 0.1


# ---------------------------------------------------------------- pickles


class Runs:
    """Runs a function when it is unpickled without a check."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Nested:
    """What dill writes for functions: what one call gives is called in turn, and is then given a state."""

    def __reduce__(self):
        return (io.BytesIO, (b"",), {"state": 1})


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [os.system, open, os.mkdir])
def test_nothing_in_a_pickle_is_run(function, legacy, resnet18, data):
    trap, file = data / "trap", place(data, "resnet18_l2_eps3")
    args = {os.system: (f"touch {trap}",), open: (str(trap), "w"), os.mkdir: (str(trap),)}[function]
    content = {"model": wrapped(resnet18), "optimizer": Runs(function, *args)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    if function is open:  # something inert took its place
        assert loaded("resnet18_l2_eps3").module
    else:
        with pytest.raises(AssetError, match=r"is refused .*(posix|nt|os)\.(system|mkdir).*nothing in it was run"):
            loaded("resnet18_l2_eps3")
    assert not trap.exists()
    torch.load(file, weights_only=False)
    assert trap.exists()  # the trap works: it is the loader that kept it shut


def legacy_file(file, program):
    """What torch wrote before release 1.6, with any pickle inside."""
    payload = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1001, 2)
    file.write_bytes(payload + pickle.dumps({"little_endian": True}, 2) + program + pickle.dumps([], 2))


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_beside_the_weights_are_inert_and_leave_nothing_behind(legacy, tmp_path):
    file, before = tmp_path / "a.pt", set(torch.serialization.get_safe_globals())
    extras = [Nested(), {Runs: Schedule()}, np.float64(1)]
    content = {"model": {"weight": torch.arange(3)}, "extras": extras}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    state = read_weights(file)
    assert state["weight"].tolist() == [0, 1, 2] and state.keys() == {"weight"}
    assert set(torch.serialization.get_safe_globals()) == before
    assert Inert(1, x=2) is Inert() and Inert()(3) is Inert()  # whatever is called, the same thing that does nothing


def test_a_chain_of_calls_and_a_state_at_the_end(tmp_path):
    chain = b"csomewhere\nmake\n)R)R)R}X\x01\x00\x00\x00aK\x01sb"
    tensors = b"X\x05\x00\x00\x00modelK\x01"
    legacy_file(tmp_path / "a.pt", b"\x80\x02}(" + tensors + b"X\x01\x00\x00\x00a" + chain + b"u.")
    with pytest.raises(AssetError, match="a.pt is refused "):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["stand-in\r", "Inert", "_INERT", "stand-in"])
def test_no_name_in_a_file_reaches_what_is_inert(name, tmp_path):
    """A file may spell the names of this very reader: it gets the same thing that does nothing."""
    program = (
        b"\x80\x02}X\x01\x00\x00\x00acdr_utils.models.files\n" + name.encode() + b"\n)R}X\x01\x00\x00\x00bK\x01sbs."
    )
    legacy_file(tmp_path / "a.pt", program)
    with pytest.raises(AssetError, match="a.pt is refused"):
        read_weights(tmp_path / "a.pt")


def test_a_dictionary_that_holds_itself_ends_in_a_sentence(tmp_path):
    for key in ("state_dict", "other"):
        content = {"epoch": 3}
        content[key] = content
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(AssetError, match=r"a.pt is refused \(.*it holds epoch, .*not tensors"):
            read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(("content", "message"), [
    ({"model": {"a": 1}, "epoch": 3}, r"holds a\): .*not tensors by name"),
    ([torch.zeros(1)], "holds no dictionary"), ({}, "holds nothing"),
    ({"model": {"a": Schedule()}}, r"holds a\): .*not tensors"),
])  # fmt: skip
def test_what_is_no_state_dict(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(AssetError, match=message):
        read_weights(tmp_path / "a.pt")


# ---------------------------------------------------------------- AugReg


def to_arrays(vit, prefix=""):
    """A vision transformer of timm in the names and axes of the published files."""
    state = {key: value.detach().numpy() for key, value in vit.state_dict().items()}
    dim, heads = vit.embed_dim, vit.blocks[0].attn.num_heads
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(len(vit.blocks)):
        block, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for ours, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}{name}/scale"] = state[f"{block}{ours}.weight"]
            arrays[f"{theirs}{name}/bias"] = state[f"{block}{ours}.bias"]
        for j in (0, 1):
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/kernel"] = state[f"{block}mlp.fc{j + 1}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/bias"] = state[f"{block}mlp.fc{j + 1}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            rows_of = slice(part * dim, (part + 1) * dim)
            weight = state[f"{block}attn.qkv.weight"][rows_of]
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(dim, heads, dim // heads)
            arrays[f"{attention}{name}/bias"] = state[f"{block}attn.qkv.bias"][rows_of].reshape(heads, dim // heads)
        arrays[f"{attention}out/kernel"] = state[f"{block}attn.proj.weight"].T.reshape(heads, dim // heads, dim)
        arrays[f"{attention}out/bias"] = state[f"{block}attn.proj.bias"]
    return {prefix + name: array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def vits():
    """Vision transformers whose every parameter is random: no zero biases that an omission would not show in."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for patch in (16, 32):
        vit = timm.create_model(f"vit_small_patch{patch}_224", num_classes=1000).eval().requires_grad_(False)
        for parameter in vit.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        found[patch] = vit
    return found


@pytest.mark.parametrize(("patch", "prefix"), [(16, ""), (32, "opt/target/")])
def test_augreg_files(patch, prefix, vits, data):
    name, vit = f"vit_s{patch}_imagenet1k", vits[patch]
    extra = {"opt/state/step": np.array(3)} if prefix else {}
    np.savez(place(data, name), **to_arrays(vit, prefix), **extra)
    x = images(1, 224)
    own, published = (loaded(name, normalisation=n) for n in ("own", "published"))
    with torch.inference_mode():
        expected = [vit.forward_features(normalised(x, *to))[:, 0] for to in ((0.5, 0.5), (MEAN, STD))]
        for network, features in zip((own, published), expected, strict=True):
            torch.testing.assert_close(network(x), features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own.logits(x), vit(normalised(x, 0.5, 0.5)), atol=1e-3, rtol=1e-3)
    assert own.weight_hash == published.weight_hash
    assert own.preprocessing["mean"] == [0.5] * 3 and published.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert (own.width, own.card.side) == (384, 224)


def test_the_normalisation_differs_for_two_networks_only():
    differing = [n for n, c in CARDS.items() if c.preprocessing("own") != c.preprocessing("published")]
    assert differing == ["vit_s16_imagenet1k", "vit_s32_imagenet1k"]
    with pytest.raises(ValueError, match="unknown normalisation 'half'; known, nearest first: "):
        loaded("resnet18_standard", normalisation="half")


AUGREG_REFUSED = {
    "missing": (lambda a: a.pop("cls"), r"weights \([0-9,]+ numbers\)"),
    "another name": (lambda a: a.update({"token": a.pop("cls")}), r"weights \(.*cls"),
    "unexpected": (lambda a: a.update({"pre_logits/bias": np.ones(3)}), r"weights \([0-9,]+ numbers\)"),
    "another head": (lambda a: a.update({"head/bias": np.ones(21843)}), r"weights \([0-9,]+ numbers\)"),
    "a pickle": (lambda a: a.update({"cls": np.array([Runs(print, "ran")], dtype=object)}), "nothing in it was run"),
}  # fmt: skip


@pytest.mark.parametrize("case", AUGREG_REFUSED)
def test_augreg_files_that_are_refused(case, vits, data, capsys):
    change, message = AUGREG_REFUSED[case]
    arrays = to_arrays(vits[32])
    change(arrays)
    np.savez(place(data, "vit_s32_imagenet1k"), **arrays)
    with pytest.raises(AssetError, match=message) as error:
        loaded("vit_s32_imagenet1k")
    assert "vit_models/augreg/S_32-i1k" in str(error.value) and "ran" not in capsys.readouterr().out.split()


def test_an_augreg_file_of_another_patch_size_and_a_truncated_one(vits, data):
    file = place(data, "vit_s16_imagenet1k")
    np.savez(file, **to_arrays(vits[32]))
    with pytest.raises(AssetError, match=r"does not hold the 22,050,664 weights \(22,"):
        loaded("vit_s16_imagenet1k")
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(AssetError, match=r"is refused \(.*\): damaged"):
        loaded("vit_s16_imagenet1k")


# ---------------------------------------------------------------- Matryoshka release

KERNEL = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@torch.inference_mode()
def blurred_resnet50(state, x):
    """ResNet50 with BlurPool before its strided convolutions, written with functions only."""

    def conv(x, name, stride=1, padding=0):
        if f"{name}.blur_filter" in state:
            n = x.shape[1]
            x = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), KERNEL.view(1, 1, 3, 3), padding=1).reshape(
                -1, n, *x.shape[2:]
            )
            name += ".conv"
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = F.max_pool2d(F.relu(norm(conv(x, "conv1", 2, 3), "bn1")), 3, 2, 1)
    for i, blocks in enumerate((3, 4, 6, 3), start=1):
        for j in range(blocks):
            at, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = F.relu(norm(conv(x, f"{at}.conv1"), f"{at}.bn1"))
            y = F.relu(norm(conv(y, f"{at}.conv2", stride, 1), f"{at}.bn2"))
            y = norm(conv(y, f"{at}.conv3"), f"{at}.bn3")
            if j == 0:
                x = norm(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = F.relu(x + y)
    assert (x > 0).float().mean() > 0.1
    return x.mean((2, 3))


@pytest.fixture(scope="module")
def trunk():
    """State dict of a ResNet50 in the release's names, without its head."""
    torch.manual_seed(6)
    module = shaken(torchvision_models.resnet50())
    state = {}
    for key, value in module.state_dict().items():
        name, _, last = key.rpartition(".")
        part = module.get_submodule(name)
        if isinstance(part, nn.Conv2d) and part.stride == (2, 2) and name != "conv1":
            state[f"{name}.blur_filter"] = KERNEL.expand(part.in_channels, 1, 3, 3).clone()
            name += ".conv"
        if name != "fc":
            state[f"{name}.{last}"] = value
    return state


def mrl_heads(widths=(*FF, 2048)):
    heads = [nn.Linear(width, 1000) for width in widths]
    return {f"fc.nesting_classifier_{i}.{k}": v for i, h in enumerate(heads) for k, v in h.state_dict().items()}


def released(state):
    return {f"module.{key}": value for key, value in state.items()}


def test_the_layout_of_the_release(trunk):
    """The keys that the training code of the release gives."""
    blurred = sorted(key for key in trunk if key.endswith("blur_filter"))
    strided = ("conv2", "downsample.0")
    assert blurred == [f"layer{i}.0.{name}.blur_filter" for i in (2, 3, 4) for name in strided]
    assert trunk["layer2.0.conv2.blur_filter"].shape == (128, 1, 3, 3)
    with torch.device("meta"):
        ours = published.build(CARDS["resnet50_mrl"])[0].state_dict()
        assert {key: v.shape for key, v in ours.items()} == {k: v.shape for k, v in (trunk | mrl_heads()).items()}


def test_the_matryoshka_network(trunk, data):
    heads = mrl_heads()
    torch.save(released(trunk | heads), place(data, "resnet50_mrl"))
    network = loaded("resnet50_mrl")
    for side in (64, 81):
        x = images(side=side)
        expected = blurred_resnet50(trunk, normalised(x))
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)
    logits = F.linear(expected, *(heads[f"fc.nesting_classifier_8.{k}"] for k in ("weight", "bias")))
    torch.testing.assert_close(network.logits(x), logits, atol=1e-3, rtol=1e-3)
    plain_resnet = blurred_resnet50({k.replace(".conv.", "."): v for k, v in trunk.items() if "blur" not in k},
                                    normalised(x))  # fmt: skip
    assert (plain_resnet - expected).abs().max() > 0.01  # the blur shows


@pytest.mark.parametrize(("width", "wrapper"), [(8, "model"), (512, None), (2048, None)])
def test_narrow_networks(width, wrapper, trunk, data):
    head = nn.Linear(width, 1000).requires_grad_(False)
    state = released(trunk | {f"fc.{key}": value for key, value in head.state_dict().items()})
    content = {wrapper: state, "epoch": 40} if wrapper else state
    torch.save(content, place(data, f"resnet50_ff{width}"))
    network = loaded(f"resnet50_ff{width}")
    x = images()
    expected = blurred_resnet50(trunk, normalised(x))[:, :width]
    assert network(x).shape == (2, width)
    torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.logits(x), F.linear(expected, head.weight, head.bias), atol=1e-3, rtol=1e-3)


BLUR = "layer3.0.conv2.blur_filter"
MATRYOSHKA_REFUSED = {
    "no blur": (lambda s: s.pop(BLUR), rf'Missing key\(s\) in state_dict: "{BLUR}"\.\); '),
    "MRL-E": (lambda s: [s.pop(k) for k in list(s) if "nesting" in k and "_8" not in k], "Missing .*classifier_0"),
    "unexpected": (lambda s: s.update({"fc.weight": torch.ones(1000, 8)}), r'Unexpected key\(s\) .*: "fc.weight"'),
}


@pytest.mark.parametrize("case", MATRYOSHKA_REFUSED)
def test_matryoshka_files_that_are_refused(case, trunk, data):
    change, message = MATRYOSHKA_REFUSED[case]
    state = trunk | mrl_heads()
    change(state)
    torch.save(released(state), place(data, "resnet50_mrl"))
    with pytest.raises(AssetError, match=message):
        loaded("resnet50_mrl")


def test_a_narrow_file_of_another_width(trunk, data):
    torch.save(released(trunk | {"fc.weight": torch.ones(1000, 16), "fc.bias": torch.ones(1000)}),
               place(data, "resnet50_ff8"))  # fmt: skip
    with pytest.raises(AssetError, match=r"size mismatch for fc.weight: .*\[1000, 16\].*\[1000, 8\]"):
        loaded("resnet50_ff8")


# ---------------------------------------------------------------- hub networks in a person's folder


def test_a_hub_network_in_the_folder(resnet18, data):
    save_file(resnet18.state_dict(), place(data, "resnet18_standard"))
    network, x = loaded("resnet18_standard"), images(side=75)
    torch.testing.assert_close(network(x), resnet_reference(resnet18, x), atol=1e-5, rtol=1e-4)
    assert network.card.source == "timm resnet18.tv_in1k"


def test_the_folder_gives_what_the_hub_would(resnet18, data, monkeypatch):
    """One file, one identity, and so the same stored features; whoever fetched it."""
    save_file(resnet18.state_dict(), place(data, "resnet18_standard"))
    local = loaded("resnet18_standard")
    elsewhere = data / "model.safetensors"
    place(data, "resnet18_standard").rename(elsewhere)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(elsewhere))
    hub = loaded("resnet18_standard")
    assert local.identity == hub.identity and local.card == hub.card
    torch.testing.assert_close(local(images()), hub(images()))


def test_a_weight_file_is_known_by_its_hash(resnet18, data, monkeypatch):
    file = place(data, "resnet18_standard")
    save_file(resnet18.state_dict(), file)
    network = load_model("resnet18_standard")
    before = network.identity
    assert network.weight_hash == sha256_of(file)
    monkeypatch.setattr(cards, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert load_model("resnet18_standard").identity == before
    monkeypatch.undo()
    monkeypatch.setenv("DR_DATA", str(data))
    monkeypatch.setenv("DR_HOME", str(data / "home"))
    save_file({k: v * 2 for k, v in resnet18.state_dict().items()}, file)
    after = load_model("resnet18_standard").identity
    assert after != before
    file.unlink()
    assert load_model("resnet18_standard").identity == after  # of a file that has been taken away since
    assert cards.file_hash(CARDS["resnet18_standard"], fetch=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: pytest.fail("fetched"))
    with pytest.raises(AssetError, match="the weights of vgg16_standard .* are not here"):
        cards.file_hash(CARDS["vgg16_standard"], fetch=False)


def test_torchvisions_vgg16_in_timms_names():
    """torchvision's own forward pass at 224 pixels, where both pool to 7x7 without averaging."""
    torch.manual_seed(7)
    whole, card = shaken(torchvision_models.vgg16_bn()), CARDS["vgg16_standard"]
    with torch.device("meta"):
        module, head_name = published.build(card)
    module = module.to_empty(device="cpu").eval()
    fit(module, published.read_layout(card, whole.state_dict(), module), "vgg16", "vgg16_bn.tv_in1k.pth")
    body, head = module, module.get_submodule(head_name)
    module.set_submodule(head_name, nn.Identity())
    x = normalised(images(1, 224))
    seen = []
    whole.classifier[6].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        logits, features = whole(x), body(x)
        torch.testing.assert_close(features, seen[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(head(features), logits, atol=1e-4, rtol=1e-3)
    assert (features > 0).float().mean() > 0.1


def test_a_file_that_does_not_fit_its_hub_network(resnet18, data):
    save_file(resnet18.state_dict(), place(data, "resnet50_standard"))
    with pytest.raises(AssetError, match=r"does not fit resnet50_standard \(resnet50.a1_in1k\) \(.*key"):
        loaded("resnet50_standard")


# ---------------------------------------------------------------- where weights are, and names


@pytest.mark.parametrize(("name", "parts"), [
    ("resnet18_standard", ("resnet18.tv_in1k.safetensors", "hf download timm/resnet18.tv_in1k model.safetensors")),
    ("wrn50_2_standard", ("wide_resnet50_2_l2_eps0.ckpt", "madrylab/robust-imagenet-models", "--revision 3f04ac96")),
    ("vit_s32_imagenet1k", ("DIR/weights/S_32-i1k", "https://storage.googleapis.com/vit_models/augreg/S_32-i1k")),
    ("resnet50_mrl", ("into DIR/weights: r50_mrl1_e0_ff2048.pt", "drive.google.com", "browser")),
])  # fmt: skip
def test_weights_that_are_nowhere(name, parts, no_hub, data, monkeypatch):
    with pytest.raises(AssetError, match=f"the weights of {name} ") as error:
        loaded(name)
    message = str(error.value)
    assert all(part in message for part in (*parts, f"not in {data / 'weights'}", "--data DIR")) and "\n" not in message
    monkeypatch.delenv("DR_DATA", raising=False)
    with pytest.raises(AssetError, match="no data folder is set"):
        loaded(name)


def test_robust_checkpoints_come_from_the_pinned_hub(resnet18, tmp_path, monkeypatch):
    asked = []
    torch.save({"model": wrapped(resnet18)}, tmp_path / "a.ckpt")

    def download(*args, **kwargs):
        asked.append((args, kwargs))
        return str(tmp_path / "a.ckpt")

    monkeypatch.delenv("DR_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    network = loaded("resnet18_l2_eps3")
    assert asked == [(("madrylab/robust-imagenet-models", "resnet18_l2_eps3.ckpt"),
                      {"revision": "3f04ac96136001cfe402022100728124cbe3fac5"})]  # fmt: skip
    torch.testing.assert_close(network(images()), resnet_reference(resnet18, images()), atol=1e-5, rtol=1e-4)


def test_the_suite_knows_the_names(resnet18, data, monkeypatch):
    assert all(check_network(name) == name for name in CARDS)
    for use in (check_network, load_model):
        with pytest.raises(
            ValueError, match="unknown network 'resnet50_l2_eps'; known, nearest first: resnet50_l2_eps3"
        ):
            use("resnet50_l2_eps")
    save_file(resnet18.state_dict(), place(data, "resnet18_standard"))
    monkeypatch.setenv("DR_DATA", str(data))
    torch.testing.assert_close(
        load_model("resnet18_standard")(images()), resnet_reference(resnet18, images()), atol=1e-5, rtol=1e-4
    )


# ---------------------------------------------------------------- python -m dr_utils models


def test_the_listing(no_hub, data, monkeypatch, capsys):
    place(data, "resnet50_ff8").touch()
    place(data, "vgg16_standard").touch()
    cached = data / "hub/models--madrylab--robust-imagenet-models/snapshots" / CARDS["resnet18_l2_eps3"].revision
    cached.mkdir(parents=True)
    (cached / "resnet18_l2_eps3.ckpt").touch()
    monkeypatch.setattr("sys.argv", ["dr_utils", "models", "--data", str(data)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dr_utils", run_name="__main__")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("name"))
    at = {column: header.index(column) for column in ("training", "upstream", "weights (file)", "state")}
    by_name = {line.split()[0]: line for line in lines if line.split() and line.split()[0] in CARDS}
    assert by_name.keys() == CARDS.keys()
    for name, line in by_name.items():
        card = CARDS[name]
        assert line.split()[1] == str(card.width) and line[at["training"] :].startswith(card.training + " ")
        assert line[at["upstream"] :].startswith(card.upstream) and line[at["weights (file)"] :].startswith(card.file)
    states = {name: line[at["state"] :] for name, line in by_name.items()}
    assert states["resnet50_ff8"] == states["vgg16_standard"] == "present"
    assert states["resnet18_l2_eps3"] == "present"
    assert states["resnet50_l2_eps3"] == "fetched from the hub at first use (205 MB)"
    assert (states["vit_s16_imagenet1k"], states["resnet50_mrl"]) == ("manual download", "manual download")
    text = "\n".join(lines)
    assert "80.1%" in by_name["resnet50_standard"] and "3 of 25 have their weights here" in text
    steps = text[text.index("What to fetch by hand") :]
    by_hand = [name for name, said in states.items() if said == "manual download"]
    assert steps.count("drive.google.com") == 1 and all(steps.count(CARDS[name].file) >= 1 for name in by_hand)
    assert "curl --fail" in text and "python -m dr_utils models --data DIR" in steps


def test_a_listing_where_all_is_there_needs_no_steps(data, capsys):
    for name in CARDS:
        place(data, name).touch()
    from dr_utils.__main__ import main

    assert main(["models", "--data", str(data)]) == 0
    said = capsys.readouterr().out.rstrip()
    assert said.endswith("25 of 25 have their weights here; those on the hub are fetched when first used.")


def test_a_listing_of_no_folder(tmp_path, capsys):
    from dr_utils.__main__ import main

    assert main(["models", "--data", str(tmp_path / "none")]) == 2
    assert "dr_utils models: the data folder" in capsys.readouterr().err
