"""The set-up files agree with each other, run_all.sh refuses slips, nothing in the repository names a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(root) -> list[Requirement]:
    return [Requirement(line) for line in (root / "requirements.lock").read_text().splitlines()]


def direct(project) -> list[Requirement]:
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in project["dependencies"] + extras]


def test_lock_holds_exact_public_pins_only(lock):
    for pin in lock:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert Version(specifier.version).local is None, f"{pin}: a local version is on no package registry"
        assert pin.url is None
    torch = {pin.name: str(pin.specifier) for pin in lock if pin.name in ("torch", "torchvision")}
    assert torch == {"torch": "==2.13.0", "torchvision": "==0.28.0"}


def test_gpu_libraries_are_asked_for_on_linux_only(lock):
    gpu = [pin for pin in lock if re.match("nvidia|cuda|triton", pin.name)]
    assert gpu
    for pin in gpu:
        assert not pin.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"}), pin


def test_every_direct_dependency_is_pinned_within_its_bound(project, lock):
    pins = {canonicalize_name(pin.name): pin for pin in lock}
    for needed in direct(project):
        pin = pins[canonicalize_name(needed.name)]
        (specifier,) = pin.specifier
        assert needed.specifier.contains(specifier.version), f"{pin} is outside {needed}"
        assert [s.operator for s in needed.specifier] == [">="], f"{needed}: a lower bound, and no more"
        assert pin.marker is None, f"{pin}: needed everywhere"


def test_environment_yml_is_a_door_to_the_same_pins(project, root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    *conda, pip = environment["dependencies"]
    assert [line.split()[0] for line in conda] == ["python", "pip"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    lowest = re.match(r"python (>=[\d.]+)", conda[0]).group(1)
    assert lowest == project["requires-python"]


def test_modules_import_only_declared_dependencies(project, root):
    import ast
    import sys

    names = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}
    declared = {names.get(canonicalize_name(need.name), canonicalize_name(need.name)) for need in direct(project)}
    # Comes with ipykernel and nbclient, whose kernels they start and find.
    declared |= {"jupyter_client", "psutil", "IPython", "dr_utils"}
    for path in (root / "dr_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                assert top in declared or top in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_citation_names_the_paper(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    paper, submission = citation["preferred-citation"], citation["references"][0]
    assert paper["title"] == "Diffused Redundancy in Pre-trained Representations"
    assert submission["title"] == "Learned Neural Network Representations are Spread Diffusely with Redundancy"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Nanda",
        "Speicher",
        "Dickerson",
        "Feizi",
        "Gummadi",
        "Weller",
    ]
    assert (root / "LICENSE").read_text().startswith("MIT License")
    assert citation["license"] == "MIT"


# ---- run_all.sh


def run_all(root: Path, *arguments: str, env=None, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(root / "run_all.sh"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env=env,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def bare(root, tmp_path) -> Path:
    """The script alone in a folder with a space in its name: nothing that it could set up."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy2(root / "run_all.sh", folder)
    (folder / "dr_utils" / "run").mkdir(parents=True)
    shutil.copy2(root / "dr_utils" / "run" / "options.py", folder / "dr_utils" / "run")
    return folder


def test_help_names_every_option_and_sets_nothing_up(bare):
    result = run_all(bare, "--help", cwd="/")
    assert result.returncode == 0
    for option in (
        "--profile",
        "--only",
        "--from-reference",
        "--data",
        "--device",
        "--out",
        "--force",
        "--setup",
        "--test",
        "--lab",
        "--voila",
        "--cpu-torch",
        "DR_HOME",
        "DR_TORCH",
    ):
        assert option in result.stdout
    assert sorted(path.name for path in bare.iterdir()) == ["dr_utils", "run_all.sh"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profil", "mini"], "unrecognized arguments: --profil mini"),
        (["mini"], "unrecognized arguments: mini"),
        (["--only"], "argument --only: expected at least one argument"),
        (["--only", "--force"], "argument --only: expected at least one argument"),
        (["--profile"], "argument --profile: expected one argument"),
        (["--out", "--force"], "argument --out: expected one argument"),
        (["--setup", "--data"], "argument --data: expected one argument"),
        (["-p", "model"], "argument -p/--parameter: expected 2 arguments"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_slip_is_told_before_anything_is_set_up(bare, arguments, message):
    result = run_all(bare, *arguments)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert sorted(path.name for path in bare.iterdir()) == ["dr_utils", "run_all.sh"]


def test_wrong_torch_build_is_told(bare):
    result = run_all(bare, "--setup", env=os.environ | {"DR_TORCH": "gpu"})
    assert result.returncode == 2 and "DR_TORCH is 'gpu'" in result.stderr


def test_active_environment_is_used_from_any_folder(root, tmp_path, active_environment):
    """Through a link whose path has a space, from another folder: reaches the runner, which knows no such notebook."""
    linked = tmp_path / "a link"
    linked.symlink_to(root)
    result = run_all(
        linked,
        "--profile",
        str(root / "tests/profiles/tiny.yaml"),
        "--only",
        "99",
        "--out",
        "here",
        env=active_environment,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert re.search(r"unknown notebook '99'|no numbered notebooks", result.stderr)
    assert "set-up" not in result.stderr


STAND_IN = """\
#!/usr/bin/env bash
# Stands in for uv: notes what it is asked, makes an environment whose python succeeds at everything.
printf '%s\\n' "$*" >>"$UV_LOG"
[[ $1 != venv ]] || { target=${@: -1}; mkdir -p "$target/bin"; ln -s /bin/true "$target/bin/python"; }
[[ $2 != sync || -z ${UV_FAILS:-} ]]
"""


class SetUp:
    """A copy of the set-up files in a folder of its own, with a stand-in for uv."""

    def __init__(self, folder: Path, root: Path, env: dict[str, str]):
        self.folder, self.log, tools = folder, folder / "uv.log", folder / "tools"
        for name in ("pyproject.toml", "requirements.lock"):
            shutil.copy2(root / name, folder)
        tools.mkdir()
        (tools / "uv").write_text(STAND_IN)
        (tools / "uv").chmod(0o755)
        self.env = env | {"PATH": f"{tools}:{os.environ['PATH']}", "UV_LOG": str(self.log)}

    def run(self, *arguments: str, **env: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        """What the script said, and the commands that it gave to uv this time."""
        self.log.write_text("")
        result = run_all(self.folder, *arguments, "--setup", env=self.env | env)
        return result, self.log.read_text().splitlines()


@pytest.fixture
def set_up(bare, root, active_environment) -> SetUp:
    return SetUp(bare, root, active_environment)


def test_set_up_is_done_once_and_again_when_the_pins_change(set_up):
    result, commands = set_up.run()
    assert result.returncode == 0, result.stderr
    # The environment that runs this test belongs to another checkout.
    assert "lacks this checkout or its requirements; using .venv here" in result.stderr
    venv, packages, package = commands
    assert venv.startswith("venv ") and venv.endswith("a folder/.venv")
    assert packages.startswith("pip sync ") and packages.endswith(" " + str(set_up.folder / "requirements.lock"))
    assert package.endswith("--no-deps --no-build-isolation --editable .")
    assert "torch-backend" not in packages

    result, commands = set_up.run()
    assert result.returncode == 0 and commands == []

    with (set_up.folder / "requirements.lock").open("a") as lock:
        lock.write("another==1\n")
    result, commands = set_up.run()
    assert [command.split()[0] for command in commands] == ["pip", "pip"]


def test_set_up_that_stopped_half_way_starts_over(set_up):
    result, _ = set_up.run(UV_FAILS="1")
    assert result.returncode == 3 and "installing the packages failed" in result.stderr
    (set_up.folder / ".venv" / "half a package").touch()
    result, commands = set_up.run()
    assert result.returncode == 0 and commands[0].startswith("venv ")
    assert not (set_up.folder / ".venv" / "half a package").exists()


@pytest.mark.parametrize("arguments, env", [(["--cpu-torch"], {}), ([], {"DR_TORCH": "cpu"})])
def test_cpu_only_torch_comes_without_gpu_libraries_and_stays(set_up, arguments, env):
    result, commands = set_up.run()
    result, commands = set_up.run(*arguments, **env)
    assert result.returncode == 0 and commands[0].startswith("venv ")
    (packages,) = [command for command in commands if command.startswith("pip sync")]
    assert "--torch-backend cpu" in packages
    pins = (set_up.folder / ".venv" / "requirements-cpu.lock").read_text()
    assert "torch==2.13.0" in pins and not re.search("^(nvidia|cuda|triton)", pins, re.MULTILINE)
    result, commands = set_up.run()
    assert commands == []
    result, _ = set_up.run("--cpu-torch", UV_FAILS="1")
    assert result.returncode == 0
    shutil.rmtree(set_up.folder / ".venv")
    result, _ = set_up.run("--cpu-torch", UV_FAILS="1")
    assert result.returncode == 3 and "without --cpu-torch the package registry is enough" in result.stderr


# ---- nothing that names a machine

# In pieces, so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"https?://[^/\s\"']*(py" r"pi|py[a-z]+" r"hosted|n" r"pmjs|deb" r"ian|download\.pyto" r"rch)",
            r"/wo" r"rk/[a-z]",
            r"/ro" r"ot/",
            r"/fa" r"rm/",
            r"/ho" r"me/[a-z]",
            r"/Us" r"ers/[A-Za-z]",
        ]
    )
)


def tracked(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def test_pattern_finds_what_it_is_for():
    hosts = ["https://files.py" + "thonhosted.org/x", "https://py" + "pi.org/simple"]
    for text in [*hosts, "/ro" + "ot/x", "/wo" + "rk/main"]:
        assert FORBIDDEN.search(text)
    assert not FORBIDDEN.search("https://doi.org/10 and framework/main and a root/ of a tree")


def test_no_registry_hosts_and_no_machine_paths(root):
    found = []
    for path in tracked(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(root)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if FORBIDDEN.search(line)
        ]
    assert not found, "\n".join(found)


def test_what_is_generated_is_ignored(root):
    for name in (
        ".venv/x",
        ".uv/x",
        "outputs/mini/tables/x.csv",
        "dr_utils/__pycache__/x",
        "x.egg-info/y",
        "notebooks/.ipynb_checkpoints/x",
        ".hypothesis/x",
    ):
        result = subprocess.run(["git", "check-ignore", "-q", name], cwd=root, check=False)
        if result.returncode == 128:
            pytest.skip("not a git checkout")
        assert result.returncode == 0, name
