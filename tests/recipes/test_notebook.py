"""The notebook's ten cells run, in order, smaller than they stand there."""

import json
from pathlib import Path

import matplotlib

NOTEBOOK = Path(__file__).resolve().parents[2] / "recipes" / "notebook" / "visionsam.ipynb"


def test_its_cells_run(tmp_path, monkeypatch, capsys):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and {"cell_type", "metadata", "source"} <= set(notebook["cells"][0])
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10 and not any(cell.get("outputs") for cell in notebook["cells"])
    names = {}
    for number, cell in enumerate(cells, 1):
        exec(compile(cell, f"cell {number}", "exec"), names)
        if number == 1:
            names |= {"IMAGES": {"train": 6, "validation": 3, "test": 3}, "STEPS": 4}
    assert "validation IoU 0." in capsys.readouterr().out
    assert (tmp_path / "outputs" / "notebook" / "report" / "report.html").is_file()
    assert (tmp_path / "outputs" / "notebook" / "dpo" / "README.md").is_file()
