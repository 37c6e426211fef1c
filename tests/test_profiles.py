"""Profiles: mini says what the issue asks for; every kind of mistake gets one clear line."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import yaml

from dr_utils.checks import unknown
from dr_utils.models.cards import read_card
from dr_utils.profiles import Profile, available, find_profile, load_profile
from dr_utils.zoo import RECIPES

SMALL = {
    "networks": ["net_a", "net_b"],
    "tasks": {"first_task": {"train": 30, "test": 20, "resolution": 32}, "second_task": {}},
    "fractions": [0.5, 0.1, 1, 0.5],
    "seeds": [1, 2],
    "deltas": [0.9, 0.75],
    "selections": [
        {"selection": "random"},
        {"selection": "pca", "networks": ["net_a"], "fractions": [0.2]},
        {"selection": "pca", "networks": ["net_a"], "tasks": ["first_task"], "fractions": [0.1]},
    ],
}


@pytest.fixture
def written(tmp_path):
    """Write SMALL with changes and return its path."""

    def write(change=lambda content: None, name="small.yaml"):
        content = copy.deepcopy(SMALL)
        change(content)
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_mini_is_a_part_of_full():
    mini, full = load_profile("mini"), load_profile("full")
    # The ImageNet networks, and every network of the zoo whose weights come with the package.
    lite, small = [f"efficientnet_lite{i}" for i in range(3)], [name for name in RECIPES if read_card(name)]
    layers = ["small_resnet@3", "small_resnet@4", "small_resnet@5"]
    assert full.networks == ["keras_resnet50", "mobilenet_v2", *lite, *small, *layers]
    assert list(full.tasks) == ["cifar10", "fashion_mnist", "groceries", "digits"] and len(full.seeds) == 20
    for name in ("networks", "tasks", "fractions", "seeds", "deltas"):
        assert set(getattr(mini, name)) <= set(getattr(full, name)), name
    assert mini.probe == full.probe and mini.cka == full.cka
    assert mini.tasks["cifar10"].eval_sets == full.tasks["cifar10"].eval_sets == ["test", "corrupted"]


def test_mini_is_what_is_asked_for():
    mini = load_profile("mini")
    assert all(task.test is None or task.test >= 1000 for task in mini.tasks.values())
    # One grid for all: any two networks can be compared at every stop of a slider.
    assert all(mini.selected(*cell)["random"] == mini.fractions for cell in mini.cells()) and len(mini.fractions) == 18
    wanted = {0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0}  # printed points, and those that claims are about
    wanted |= {2.0**-i for i in range(7)} | {i / 8 for i in range(1, 9)}  # the nested network, the narrowest layer
    assert wanted == set(mini.fractions)
    assert mini.seeds == [1, 2, 3, 4, 5]
    assert (mini.deltas[0], mini.deltas[-1]) == (0.75, 1.0)
    probe = mini.probe
    assert (probe.lr, probe.momentum, probe.weight_decay, probe.batch_size) == (0.1, 0.9, 1e-4, 256)
    assert (probe.epochs, probe.step_epochs, probe.gamma, probe.standardise) == (50, 10, 0.1, False)
    assert mini.probe.solvers == ["sgd", "ridge"]
    assert mini.cka.estimators == ["biased", "debiased"] and mini.cka.images == 1000


def test_every_profile_of_the_checkout_loads(root):
    assert "mini" in available()
    for name in available():
        assert load_profile(name).name == name
    for path in (root / "tests" / "profiles").glob("*.yaml"):
        assert load_profile(path).name == path.stem


def test_content_is_put_in_order(written):
    profile = load_profile(written())
    assert profile.name == "small"
    assert profile.fractions == [0.1, 0.5, 1.0] and profile.deltas == [0.75, 0.9]
    assert profile.cells()[:3] == [("net_a", "first_task"), ("net_a", "second_task"), ("net_b", "first_task")]
    assert profile.selected("net_a", "first_task") == {"random": [0.1, 0.5, 1.0], "pca": [0.1, 0.2]}
    assert profile.selected("net_a", "second_task")["pca"] == [0.2]
    assert list(profile.selected("net_b", "first_task")) == ["random"]
    assert profile.spec("net_a", "second_task").cka.estimators == ["biased", "debiased"]
    assert load_profile(profile) is profile


def test_fingerprint_follows_what_decides_results(written):
    first = load_profile(written()).fingerprint()
    assert load_profile(written(lambda c: c.update(title="Other words"))).fingerprint() == first
    assert load_profile(written(lambda c: c.update(fractions=[1.0, 0.1, 0.5]))).fingerprint() == first
    assert load_profile(written(lambda c: c.update(subset_seed=1))).fingerprint() != first
    assert load_profile(written(lambda c: c.update(probe={"lr": 0.2}))).fingerprint() != first


MISTAKES = {
    "key": (lambda c: c.update(seed=[1]), "unknown profile key 'seed'; known, nearest first: seeds, "),
    "deep key": (
        lambda c: c["tasks"]["first_task"].update(trian=3),
        "tasks.first_task: unknown profile key 'trian'; known, nearest first: train, ",
    ),
    "missing": (lambda c: c.pop("networks"), "networks: this key is missing."),
    "type": (
        lambda c: c["tasks"]["first_task"].update(train="many"),
        "tasks.first_task.train: expected a valid integer; got 'many'.",
    ),
    "yes for 1": (lambda c: c.update(probe={"epochs": True}), "probe.epochs: expected a valid integer; got True."),
    "no images": (lambda c: c["tasks"]["first_task"].update(test=0), "first_task.test: expected greater than or equal"),
    "no test": (lambda c: c["tasks"]["first_task"].update(eval_sets=["new"]), "expected 'test' among them; got"),
    "fraction 0": (lambda c: c.update(fractions=[0, 1.0]), "fractions.0: expected greater than 0; got 0."),
    "fraction 1.5": (
        lambda c: c["selections"][1].update(fractions=[1.5]),
        "selections.1.fractions.0: expected less than",
    ),
    "no full layer": (lambda c: c.update(fractions=[0.5]), "the full layer of net_a is not measured on first_task"),
    "delta": (lambda c: c.update(deltas=[0.9, 1.2]), "deltas.1: expected less than or equal to 1"),
    "selection": (
        lambda c: c["selections"].append({"selection": "randm"}),
        "selections.3.selection: expected 'random', 'first', 'every', 'pca', ",
    ),
    "names": (lambda c: c["selections"][1].update(tasks="some"), 'selections.1.tasks: expected "all" or a list'),
    "no random": (lambda c: c["selections"].pop(0), "selections must hold {selection: random}"),
    "solver": (lambda c: c.update(probe={"solvers": ["adam"]}), "probe.solvers.0: expected 'sgd' or 'ridge'; got"),
    "twice": (lambda c: c.update(seeds=[1, 2, 1]), "seeds: 1 is listed twice; got [1, 2, 1]."),
    "number or word": (
        lambda c: c.update(probe={"ridge_alpha": "aut"}),
        "probe.ridge_alpha: expected a number above 0, or 'auto'; got 'aut'.",
    ),
    "views": (
        lambda c: c.update(extraction={"augmentation": {"view": 3}}),
        "extraction.augmentation: expected 'none', 'fresh' or {views: K}, K a whole number of passes; got {'view': 3}.",
    ),
    "augmentation": (
        lambda c: c.update(extraction={"augmentation": "frsh"}),
        "extraction.augmentation: expected 'none', 'fresh' or {views: K}, K a whole number of passes; got 'frsh'.",
    ),
    "misspelled": (
        lambda c: c.update(network=c.pop("networks")),
        "unknown profile key 'network'; known, nearest first: networks, ",
    ),
    "other name": (lambda c: c.update(name="mini"), "name: expected 'small', the file's own; got 'mini'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gets_one_clear_line(written, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:
        load_profile(written(change))
    assert message in str(error.value)
    assert str(error.value).startswith("profile small.yaml: ")
    assert "\n" not in str(error.value)


def test_two_mistakes_get_two_lines(written):
    with pytest.raises(ValueError) as error:
        load_profile(written(lambda c: c.update(seeds=3, probe={"lr": -1.0})))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["seeds", "probe.lr"]
    with pytest.raises(ValueError) as error:
        load_profile(written(lambda c: c.update(seed=[3], delta=[0.9], probe={"epoch": 1})))
    assert [line.split(": ")[1].split(";")[0] for line in str(error.value).splitlines()] == [
        "unknown profile key 'delta'", "unknown profile key 'seed'",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["networks: [a", "just words", ""])
def test_file_that_is_no_profile(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^profile broken\.yaml( is not YAML|: expected a valid dictionary)") as error:
        load_profile(path)
    assert "\n" not in str(error.value)


def test_unknown_profile_lists_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"unknown profile 'minni'; known, nearest first: mini"):
        find_profile("minni")
    with pytest.raises(ValueError, match=r"unknown profile '.*absent.yaml'; known, .*mini"):
        find_profile(tmp_path / "absent.yaml")


def test_names_are_checked_against_the_registries(written):
    profile = load_profile(written(lambda c: c["tasks"]["first_task"].update(eval_sets=["test", "corrupted"])))
    cards = {name: SimpleNamespace(splits=("train", "test", "corrupted")) for name in ("first_task", "second_task")}

    def check(name):
        if name not in ("net_a", "net_b"):
            raise unknown("network", name, ["net_a", "net_b"])

    profile.check_names(check, cards)
    with pytest.raises(ValueError, match="unknown task 'second_task'; known, nearest first: first_task"):
        profile.check_names(check, {"first_task": cards["first_task"]})
    with pytest.raises(ValueError, match="unknown evaluation set of first_task 'corrupted'.*: test"):
        profile.check_names(check, cards | {"first_task": SimpleNamespace(splits=("train", "test"))})
    # What selections and tasks mention must exist too, though it need not be in the profile.
    for change in (
        lambda c: c["selections"][1].update(networks=["net_c"]),
        lambda c: c["tasks"]["second_task"].update(networks=["net_c"]),
    ):
        with pytest.raises(ValueError, match="unknown network 'net_c'; known, nearest first: net_a"):
            load_profile(written(change)).check_names(check, cards)
    with pytest.raises(ValueError, match="unknown task 'task'"):
        load_profile(written(lambda c: c.update(cka={"tasks": ["task"]}))).check_names(check, cards)


def test_networks_and_tasks_alone_make_a_profile(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("networks: [net_a]\ntasks: [first_task, second_task]\n")
    profile = load_profile(path)
    assert profile.name == "short" and list(profile.tasks) == ["first_task", "second_task"]
    assert profile.seeds == [1, 2, 3, 4, 5] and profile.probe.epochs == 50
    assert profile.deltas == load_profile("mini").deltas and len(profile.deltas) == 26
    assert profile.fractions == load_profile("paper").fractions
    assert profile.selected("net_a", "second_task") == {"random": profile.fractions}
    path.write_text("networks: [net_a]\ntasks:\n  first_task:\n  second_task: {train: 30}\n")
    assert load_profile(path).tasks["first_task"].train is None
    assert Profile(networks=["net_a"], tasks=["first_task"]).cells() == [("net_a", "first_task")]


def test_a_copy_of_mini_may_leave_networks_and_tasks_out(tmp_path):
    content = yaml.safe_load(find_profile("mini").read_text()) | {"name": "fewer", "networks": ["small_resnet"]}
    content["tasks"] = {"groceries": content["tasks"]["groceries"]}
    path = tmp_path / "fewer.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_profile(path).cells() == [("small_resnet", "groceries")]


def test_folder_of_results(written, tmp_path, root):
    profile = load_profile(written())
    assert profile.folder(tmp_path / "here") == tmp_path.resolve() / "here" / "small"
    assert profile.folder() == root / "outputs" / "small"
