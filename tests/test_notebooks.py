"""The notebooks: without outputs in git, with public names alone, and they run."""

import ast
import json
from pathlib import Path

import pytest
from xla import QUICK

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_each_task():
    assert [path.stem for path in NOTEBOOKS] == ["classification", "segmentation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_in_git(path):
    for cell in cells(path, "code"):
        told = "".join(cell["source"])[:60]
        assert cell["outputs"] == [] and cell["execution_count"] is None, told
        assert cell["metadata"] == {}, told
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_stands_between_the_cells_and_nothing_private_is_used(path):
    code, prose = cells(path, "code"), cells(path, "markdown")
    assert len(prose) >= len(code) / 2
    for cell in code:
        assert len(cell["source"]) <= 20, "".join(cell["source"])
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), node.attr
            if isinstance(node, ast.ImportFrom):
                assert not any(name.name.startswith("_") for name in node.names)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_nothing(path, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    # The devices are those of the machine, as when a person runs it.
    monkeypatch.setenv("XLA_FLAGS", QUICK)
    monkeypatch.setenv("SKINJAX_WORKDIR", str(tmp_path / "run"))
    # Nothing of the machine's user is read or left behind.
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    done = nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == {"segmentation": 4, "classification": 5}[path.stem]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "test:" in printed and "drawn_7.png,ok," in printed
