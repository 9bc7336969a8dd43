"""Run notebooks from the top in a fresh kernel and keep the outputs, which `make test` compares with.

    python tools/execute_notebooks.py                       all of notebooks/
    python tools/execute_notebooks.py notebooks/08_*.ipynb

References are never edited by hand. What changes from run to run for no reason (timestamps, the interpreter's
exact version) is left out, so that a difference in git is a difference in a result.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
CELL_SECONDS = 120


def execute(path: Path) -> float:
    """Execute one notebook in place; return the seconds it took. A failing cell leaves the file alone."""
    notebook = nbformat.read(path, as_version=4)
    begin = time.monotonic()
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    seconds = time.monotonic() - begin
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    temporary = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    return seconds


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        print(f"{path.name}: {execute(path):.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
