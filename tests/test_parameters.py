"""Parameters of single notebooks: read as what they look like, given to those that have them, refused elsewhere."""

from __future__ import annotations

import ast
import json

import nbformat
import pytest

from dr_utils.run.notebooks import names_in, read_parameters


@pytest.fixture
def notebooks(tmp_path):
    def make(name, source):
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata.tags = ["parameters"]
        path = tmp_path / f"{name}.ipynb"
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path.write_text(json.dumps(nbformat.v4.new_notebook(cells=[cell], metadata=metadata)))
        return path

    shared = 'profile = "mini"\nout = None\ndevice = "auto"\n'
    return make("01_one", shared), make("08_own", shared + 'model = "a"\ndata = None  # a folder\nlimit = None')


def test_names_are_those_of_the_parameters_cell(notebooks):
    assert names_in(notebooks[0]) == [] and names_in(notebooks[1]) == ["model", "data", "limit"]


def test_every_parameter_of_the_shipped_notebooks_can_be_given(root):
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        assigned = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert set(names_in(path)) | {"profile", "out", "device"} == assigned, path.name


def test_values_are_what_they_look_like_and_paths_are_made_whole(notebooks, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    found = read_parameters([("model", "resnet18"), ("data", "photos"), ("limit", "200")], notebooks)
    assert found == {
        notebooks[0]: {},
        notebooks[1]: {"model": "resnet18", "data": str(tmp_path / "photos"), "limit": 200},
    }
    assert read_parameters([], notebooks) == {}
    values = [
        ("[0.1, 0.5]", [0.1, 0.5]),
        ("null", None),
        ("true", True),
        ("timm:resnet18", "timm:resnet18"),
        ("a: [", "a: ["),
    ]
    for text, value in values:
        assert read_parameters([("model", text)], notebooks)[notebooks[1]] == {"model": value}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("modle", "x")], "unknown parameter of these notebooks 'modle'; known, nearest first: model, "),
        ([("device", "cpu")], "profile, out, device have options of their own, such as --device"),
    ],
)
def test_slips_are_told(notebooks, pairs, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(pairs, notebooks)
