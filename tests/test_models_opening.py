"""A user's own network: names, checkpoints and modules; any layer; what is refused."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dr_utils.models import load_model
from dr_utils.models.backbone import Tapped
from dr_utils.models.files import read_weights
from dr_utils.models.opening import open_model
from dr_utils.store import AssetError

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def images(n=3, side=64):
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def features(network, side=64):
    return network(images(side=side))


@torch.inference_mode()
def input_of(module, layer, side=64):
    """What a layer of a whole network is given, pooled to nothing: the reference by a hook of the test's own."""
    seen = []
    handle = module.get_submodule(layer).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module.eval()((images(side=side) - MEAN) / STD)
    handle.remove()
    return seen[-1]


@torch.inference_mode()
def output_of(module, layer, side=64):
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _, given, output: seen.append(output))
    module.eval()((images(side=side) - MEAN) / STD)
    handle.remove()
    return seen[-1]


class Tiny(nn.Module):
    """A user's network: its head is defined first, and a softmax follows it."""

    def __init__(self, slope=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 4)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.unused = nn.Linear(6, 6)
        self.slope = slope

    def forward(self, x):
        x = nn.functional.leaky_relu(self.stem(x), self.slope)
        return self.head(x.mean((2, 3))).softmax(1)


# ---------------------------------------------------------------- names


def test_a_name_of_the_suite_is_the_suites_network():
    network = open_model("mobilenet_v2", pretrained=False)
    ours = load_model("mobilenet_v2", pretrained=False)
    assert network.card == ours.card and network.preprocessing == ours.preprocessing
    network.module.load_state_dict(ours.module.state_dict())
    assert network.weight_hash == ours.weight_hash and network.identity == ours.identity
    assert open_model("small_resnet").identity == load_model("small_resnet").identity
    assert open_model("mobilenet_v2", pretrained=False, side=96).card.side == 96


def test_timm_or_torchvision_where_both_know_the_name():
    assert "timm" in open_model("resnet18", pretrained=False).card.source
    network = open_model("torchvision:resnet18", pretrained=False)
    assert network.card.source.startswith("torchvision, random weights; features: the input of layer 'fc'; mean 0.485")
    assert (network.card.kind, network.card.training, network.card.upstream) == ("own", "own", "unknown")
    assert network.card.width == 512 and not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())


@pytest.mark.parametrize(("name", "layer", "width"), [("mobilenet_v3_small", "classifier.3", 1024),
                                                      ("resnet18", "fc", 512)])  # fmt: skip
def test_torchvision_features_are_the_input_of_the_last_linear_layer(name, layer, width):
    network = open_model(f"torchvision:{name}", pretrained=False)
    assert network.width == width
    torch.testing.assert_close(features(network), input_of(network.module.body.module, layer))


def test_torchvision_without_a_linear_layer_gives_its_output():
    network = open_model("squeezenet1_1", pretrained=False)
    assert network.width == 1000 and "features: the output;" in network.card.source
    torch.testing.assert_close(features(network), network.module.body.module((images() - MEAN) / STD))


def test_torchvision_weights_that_cannot_be_fetched(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(AssetError, match=r"resnet18 cannot be fetched \(no route\); download https://.*resnet18.*pth"):
        open_model("torchvision:resnet18")


@pytest.mark.parametrize(("given", "message"), [
    ("keras_resnet5", "unknown network 'keras_resnet5'; known, nearest first: keras_resnet50, "),
    ("torchvision:resnet19", "unknown torchvision network 'resnet19'; known, nearest first: resnet18, "),
    ("timm:test_vi", "unknown timm network 'test_vi'; known, nearest first: test_vit, "),
])  # fmt: skip
def test_unknown_names(given, message):
    with pytest.raises(ValueError, match=message) as error:
        open_model(given)
    assert str(error.value).count(", ") < 14 and "\n" not in str(error.value)


@pytest.mark.parametrize(("model", "side"), [("test_vit.r160_in1k", 160), ("torchvision:inception_v3", 299),
                                             ("mobilenet_v2", 224), (Tiny(), 224)])  # fmt: skip
def test_the_side_that_a_network_was_made_for(model, side):
    assert open_model(model, pretrained=False).side == side


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained():
    """A timm network of seven classes with weights of its own."""
    torch.manual_seed(3)
    return timm.create_model("resnet10t", num_classes=7).eval()


def wrapped_ema(state):
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    return {"epoch": 3, "state_dict_ema": zeros, "state_dict": state, "best": 0.5}


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}, "epoch": 3},
    "model": lambda state: {"model": OrderedDict(state)},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
    "the average beside the weights": wrapped_ema,
    "the average alone": lambda state: {"state_dict_ema": state},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_checkpoints_in_their_wrappers(form, trained, tmp_path):
    torch.save(WRAPPED[form](trained.state_dict()), tmp_path / "best.pth")
    network = open_model("resnet10t", checkpoint=tmp_path / "best.pth")
    torch.testing.assert_close(features(network), input_of(trained, "fc"))
    assert "weights of best.pth (7 classes)" in network.card.source
    assert (network.width, network.card.training, network.card.upstream) == (512, "own", "unknown")


def test_safetensors_without_a_head(trained, tmp_path):
    save_file({k: v for k, v in trained.state_dict().items() if not k.startswith("fc.")}, tmp_path / "a.safetensors")
    network = open_model("resnet10t", checkpoint=str(tmp_path / "a.safetensors"))
    torch.testing.assert_close(features(network), input_of(trained, "fc"))
    # No random head is left to change the hash.
    assert network.identity == open_model("resnet10t", checkpoint=tmp_path / "a.safetensors").identity


@pytest.mark.parametrize("with_head", [True, False])
def test_torchvision_checkpoints(with_head, tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(4)
    whole = get_model("resnet18", num_classes=5)
    state = {k: v for k, v in whole.state_dict().items() if with_head or not k.startswith("fc.")}
    torch.save(state, tmp_path / "tv.pt")
    network = open_model("torchvision:resnet18", checkpoint=tmp_path / "tv.pt")
    torch.testing.assert_close(features(network), input_of(whole, "fc"))


def test_keys_that_do_not_fit_are_named(trained, tmp_path):
    state = trained.state_dict()
    for key in list(state)[:4]:
        state[f"other.{key}"] = state.pop(key)
    state["layer1.0.conv1.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "a.pt")
    names = list(trained.state_dict())
    with pytest.raises(AssetError, match=r"^a.pt does not fit timm's resnet10t \(.* name the architecture") as error:
        open_model("resnet10t", checkpoint=tmp_path / "a.pt")
    message = str(error.value)
    missing, unexpected = (", ".join(f'"{prefix}{name}"' for name in names[:4]) for prefix in ("", "other."))
    assert f"Missing key(s) in state_dict: {missing}" in message
    assert f"Unexpected key(s) in state_dict: {unexpected}" in message
    assert "size mismatch for layer1.0.conv1.weight: " in message and "\n" not in message


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["torch", "pickle", "whole module"])
def test_a_pickle_is_never_run(form, tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "weights.pth"
    if form == "torch":
        torch.save({"state_dict": {"weight": Malicious(trap)}}, file)
    elif form == "pickle":
        file.write_bytes(pickle.dumps({"weight": Malicious(trap)}))
    else:
        torch.save(nn.Sequential(nn.Linear(2, 2)), file)
    with pytest.raises(AssetError) as error:
        open_model("resnet10t", checkpoint=file)
    assert not trap.exists()
    assert "weights.pth is refused (" in str(error.value) and "nothing in it was run" in str(error.value).lower()
    assert "torch.save(model.state_dict(), ...)" in str(error.value)
    with open(file, "rb") as opened:
        # The trap works: it is the loader that kept it shut.
        torch.load(opened, weights_only=False) if form == "torch" else None
    assert trap.exists() == (form == "torch")


@pytest.mark.parametrize(("write", "message"), [
    (lambda path: path.write_bytes(b"noise" * 100), r"refused \(.*\): damaged, or not tensors by name"),
    (lambda path: torch.save({"epoch": 3, "args": {"lr": 1.0}}, path), r"it holds epoch, args\): .*not tensors"),
    (lambda path: torch.save({}, path), r"holds nothing\): .*not tensors by name"),
    (lambda path: torch.save([torch.zeros(2)], path), r"holds no dictionary\): .*not tensors by name"),
    (lambda path: None, "a.pth: no such file"),
])  # fmt: skip
def test_what_is_no_checkpoint(write, message, tmp_path):
    write(tmp_path / "a.pth")
    with pytest.raises(AssetError, match=message) as error:
        read_weights(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_a_truncated_safetensors_file(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-50])
    with pytest.raises(AssetError, match=r"a.safetensors is refused \(.*\): damaged"):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("model", "message"), [
    ("keras_resnet50", "unknown network 'keras_resnet50'; .* its architecture in timm or torchvision: checkpoint=FILE"),
    (Tiny(), r"not a module; .*load_state_dict\(...\)"),
])  # fmt: skip
def test_a_checkpoint_needs_a_named_architecture(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_model(model, checkpoint=tmp_path / "a.pth")


# ---------------------------------------------------------------- modules


def test_a_module_is_read_before_its_head_and_left_alone():
    module = Tiny().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = open_model(module)
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert not network.module.training and network.module.body.module is not module
    torch.testing.assert_close(features(network), input_of(module.eval(), "head"))
    assert (
        network.width == 6 and "an nn.Module of class Tiny; features: the input of layer 'head'" in network.card.source
    )
    with torch.no_grad():
        module.stem[0].weight.zero_()
    assert network.identity == open_model(Tiny()).identity  # later training does not reach it
    assert all(torch.equal(before[k], v) for k, v in network.module.body.module.state_dict().items())


def test_modules_of_equal_weights_are_told_apart():
    found = {open_model(Tiny(slope)).identity for slope in (0.0, 0.3)}
    found |= {open_model(Tiny(), layer=layer).identity for layer in ("stem", "stem.0")}
    assert len(found) == 4 and open_model(Tiny()).identity in found


def test_normalisation_of_a_module():
    default, raw = open_model(Tiny()), open_model(Tiny(), mean=0, std=1)
    assert default.preprocessing["mean"] == [0.485, 0.456, 0.406] and "mean 0.485, 0.456, 0.406" in default.card.source
    assert (raw.preprocessing["mean"], raw.preprocessing["std"]) == ([0, 0, 0], [1, 1, 1])
    torch.testing.assert_close(features(raw), raw.module.body(images()))


@pytest.mark.parametrize("wrong", [{"std": 0}, {"std": (0.2, -0.1, 0.2)}, {"mean": float("nan")}])
@pytest.mark.parametrize("model", [Tiny(), "resnet10t"])
def test_a_normalisation_that_cannot_be_is_refused(model, wrong):
    with pytest.raises(ValueError, match="three finite numbers each, std above 0; got mean "):
        open_model(model, pretrained=False, **wrong)


def test_a_module_without_a_linear_head_gives_its_output():
    network = open_model(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()))
    assert network.width == 5 and "features: the output;" in network.card.source
    torch.testing.assert_close(features(network), network.module.body.module((images() - MEAN) / STD).mean((2, 3)))


class Gives(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


@pytest.mark.parametrize(("give", "message"), [
    (lambda x: (x, x), "the output is a tuple of shape"),
    (lambda x: x.mean(), r"the output is a Tensor of shape \(\)"),
    (lambda x: x.flatten(0, 1).flatten(1), r"the output is a Tensor of shape \(6, 9216\) for 2 images"),
    (lambda x: x.mean((2, 3)).long(), "expected a floating point tensor"),
    (lambda x: x @ torch.zeros(5, 5), r"fails on images of shape \[2, 3, 96, 96\] \(RuntimeError: .*side=..."),
])  # fmt: skip
def test_modules_that_give_no_features(give, message):
    with pytest.raises(ValueError, match=message) as error:
        open_model(Gives(give), side=96)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- any layer


def test_maps_are_averaged_over_positions(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "a.pt")
    network = open_model("resnet10t", checkpoint=tmp_path / "a.pt", layer="layer2")
    torch.testing.assert_close(features(network), output_of(trained, "layer2").mean((2, 3)))
    assert (network.card.name, network.width) == ("resnet10t:layer2", 128)
    assert "features: the output of layer 'layer2'" in network.card.source
    logits = open_model("resnet10t", checkpoint=tmp_path / "a.pt", layer="fc")
    torch.testing.assert_close(features(logits), trained((images() - MEAN) / STD))


def test_tokens_are_averaged_or_the_class_token_is_taken():
    vit = timm.create_model("test_vit")
    tokens = output_of(vit, "blocks.1", side=160)
    assert tokens.ndim == 3
    mean = open_model(vit, layer="blocks.1", side=160)
    token = open_model(vit, layer="blocks.1#token", side=160)
    torch.testing.assert_close(features(mean, 160), tokens.mean(1))
    torch.testing.assert_close(features(token, 160), tokens[:, 0])
    assert mean.identity != token.identity and mean.card.side == 160


def test_channels_that_come_last_are_recognised():
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=24, num_heads=(1, 2))
    found = output_of(swin, "layers.1", side=224)
    assert found.shape[1:] == (28, 28, 48)
    network = open_model(swin, layer="layers.1")
    torch.testing.assert_close(features(network, 224), found.mean((1, 2)))


def test_layers_of_the_suite_and_of_pretrained_timm_networks():
    for name, layer, width in (("mobilenet_v2", "classifier", 1000), ("mobilenet_v2", "features.3", 24),
                               ("test_vit", "head", 1000)):  # fmt: skip
        network = open_model(name, layer=layer, pretrained=False)
        assert (network.width, network.card) == (width, load_model(f"{name}@{layer}", pretrained=False).card)
    assert open_model("small_vit", layer="blocks.1#token").identity == load_model("small_vit@blocks.1#token").identity


def test_a_network_of_another_channel_order_keeps_it():
    network = open_model("keras_resnet50", layer="layer1", pretrained=False)
    assert network.preprocessing == load_model("keras_resnet50", pretrained=False).preprocessing
    assert network.preprocessing["channel_order"] == "BGR" and network.preprocessing["range"] == 255


def test_a_layer_before_one_that_works_in_place():
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True))
    expected = module[0]((images() - MEAN) / STD)
    torch.testing.assert_close(features(open_model(module, layer="0#flat", side=64)), expected.flatten(1))


def test_a_layer_called_twice_gives_what_came_last():
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 5, 3), relu)
    network = open_model(twice, layer="1")
    torch.testing.assert_close(features(network), network.module.body.module((images() - MEAN) / STD).mean((2, 3)))


def test_unknown_layer():
    with pytest.raises(
        ValueError, match="unknown layer of Tiny 'stem.7'; known, nearest first: stem.0, stem.1, stem.2, "
    ) as error:
        open_model(Tiny(), layer="stem.7")
    assert "\n" not in str(error.value)
    names = [name for name, _ in timm.create_model("resnet10t").named_modules() if name]
    with pytest.raises(ValueError, match="unknown layer of resnet10t 'layer5'.* nearest first: layer1,") as error:
        open_model("resnet10t", layer="layer5", pretrained=False)
    assert str(error.value).count(", ") <= 11 and f"the nearest of {len(names)}." in str(error.value)
    with pytest.raises(ValueError, match="unknown layer of Tiny ''"):
        open_model(Tiny(), layer="")


def test_a_layer_that_is_not_reached():
    with pytest.raises(ValueError, match="^the output of layer 'unused' is not computed"):
        open_model(Tiny(), layer="unused")


def test_pools():
    with pytest.raises(ValueError, match="unknown pool 'max'; known, nearest first: "):
        open_model(Tiny(), layer="stem#max")
    with pytest.raises(ValueError, match="no tokens .*; leave out #token"):
        open_model(Tiny(), layer="stem#token")


def test_every_named_layer_can_be_tapped_or_says_why():
    module = timm.create_model("test_vit").eval()
    tapped = 0
    for name, _ in module.named_modules():
        try:
            tapped += Tapped(module, None, name or None).probe(160).ndim == 2
        except ValueError as error:
            assert "ask for another layer" in str(error)
    assert tapped > 30


def test_a_torchscript_module_gives_its_output():
    network = open_model(torch.jit.trace(Tiny().eval(), images()))
    torch.testing.assert_close(features(network), Tiny().eval()((images() - MEAN) / STD))


def test_a_layer_read_without_pooling_takes_one_side_of_images():
    network = open_model(timm.create_model("resnet10t"), layer="layer4#flat", side=64)
    assert network.width == 512 * 2 * 2 and features(network).shape == (3, 2048)
    for side in (32, 96):
        with pytest.raises(ValueError, match=f"images of {side} pixels give .* features, not 2048"):
            features(network, side)
