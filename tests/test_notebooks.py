"""The notebooks run from top to bottom, and a kernel that is interrupted during `fit` has the best weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="it comes with the extra `test`")
nbclient = pytest.importorskip("nbclient", reason="it comes with the extra `test`")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SMALL = {"quick_start": "MAX_WINDOWS = 4", "changing_environment": "MAX_WINDOWS = 60", "ordinary_model": "EPOCHS = 6"}
SECONDS = 300  # for a cell


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def client_of(notebook: Any, folder: Path, **options: Any) -> Any:
    """A client whose kernel imports the package of these tests."""
    place = {"metadata": {"path": str(folder)}}
    return nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place, **options)


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


pytestmark = [
    # Of Jupyter's own packages, about sockets and the event loop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq.*"),
]


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_on_small_settings(name: str, tmp_path: Path) -> None:
    notebook = read(name)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SMALL[name]
    client_of(notebook, tmp_path).execute()  # raises if a cell does
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 1


def test_every_notebook_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_stored_notebook_has_its_outputs_and_no_error(name: str) -> None:
    outputs = [output for cell in read(name).cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_an_interrupted_kernel_has_the_best_weights(tmp_path: Path) -> None:
    """Jupyter interrupts a kernel with SIGINT. The next cell runs as if `fit` had ended."""
    (train,) = [cell.source for cell in read("quick_start").cells if "agent.fit(" in cell.source]
    before, fit = train.split("agent.fit(")
    interrupt = (
        "import os, signal, threading, time\n"
        "def interrupt():\n"
        "    while callback.env_steps < 2_000:\n"
        "        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
    )
    look = "print(callback.events[-1].kind, callback.best_snapshot.score > 0, agent.act([0.0] * 4) in (0, 1))"
    cells = [f"MAX_WINDOWS = None\n{before}{interrupt}agent.fit({fit}", look]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    client_of(notebook, tmp_path, allow_errors=True).execute()
    errors = [output.ename for output in notebook.cells[0].outputs if output.output_type == "error"]
    assert errors == ["KeyboardInterrupt"]
    (said,) = [output.text for output in notebook.cells[1].outputs]
    assert said.strip() == "restored True True"
