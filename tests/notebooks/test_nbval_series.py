"""The comparison of plotted data must catch what a reader would be misled by, and nothing else."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmlite.nbval import MIME, close, difference, is_progress, rtol_of, split

ROOT = Path(__file__).resolve().parents[2]
SERIES = {
    "labels": {"title": "Sizes", "x": "", "y": "bytes"},
    "x": ["F16", "Q4_0"],
    "y": {"bytes": [9.0, 2.7]},
    "rtol": 1e-5,
}
PLANTED = {  # what is changed in the reference -> whether nbval must notice
    "same": (lambda s: None, False),
    "noise_of_1e-7": (lambda s: s["y"].update(bytes=[9.0 * (1 + 1e-7), 2.7]), False),
    "one_percent": (lambda s: s["y"].update(bytes=[9.0, 2.7 * 1.01]), True),
    "axis_label": (lambda s: s["labels"].update(y="MB"), True),
    "name_of_a_point": (lambda s: s.update(x=["F16", "Q4_1"]), True),
    "name_of_a_series": (lambda s: s.update(y={"bits": [9.0, 2.7]}), True),
}


def changed(plant: Any) -> dict[str, Any]:
    series = copy.deepcopy(SERIES)
    plant(series)
    return series


@pytest.mark.parametrize("name", PLANTED)
def test_planted_differences_are_told_from_noise(name: str) -> None:
    plant, noticed = PLANTED[name]
    assert bool(difference(changed(plant), SERIES)) == noticed


def test_a_nan_or_a_missing_point_is_noticed() -> None:
    assert difference(SERIES, changed(lambda s: s["y"].update(bytes=[9.0, float("nan")])))
    assert difference(SERIES, changed(lambda s: s["y"].update(bytes=[9.0])))


def test_the_order_of_series_is_that_of_the_file_and_says_nothing() -> None:
    one, other = [
        changed(lambda s, y=y: s.update(y=y)) for y in ({"a": [1.0], "b": [2.0]}, {"b": [2.0], "a": [1.0]})
    ]
    assert not difference(one, other)


def test_pictures_with_data_are_taken_out_and_the_rest_is_left_to_nbval() -> None:
    picture = {"output_type": "display_data", "data": {MIME: SERIES, "text/html": "<img>"}}
    text = {"output_type": "stream", "text": "hello"}
    assert split([picture, text]) == ([text], [SERIES])


def notebook(series: dict[str, Any]) -> Any:
    """A notebook that publishes SERIES, with `series` as its reference output."""
    nbformat = pytest.importorskip("nbformat")
    source = (
        "from IPython.display import publish_display_data\n"
        f"publish_display_data({{{MIME!r}: {SERIES!r}, 'text/html': 'different every time'}})"
    )
    cell = nbformat.v4.new_code_cell(source, execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", data={MIME: series, "text/html": "<img>"})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=[cell], metadata=kernel)


def test_nbval_fails_on_a_planted_percent_and_on_a_changed_label(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbval")
    chosen = ("noise_of_1e-7", "one_percent", "axis_label")
    for name in chosen:
        nbformat.write(notebook(changed(PLANTED[name][0])), tmp_path / f"{name}.ipynb")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "llmlite.nbval",
            "-p",
            "no:cacheprovider",
            "--nbval",
            "--nbval-current-env",
            "-rA",
            "-q",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    verdicts = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED"):
            verdicts[Path(rest.partition("::")[0]).stem] = word
    assert verdicts == {name: "FAILED" if PLANTED[name][1] else "PASSED" for name in chosen}, done.stdout[
        -3000:
    ]


# --- text, progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("loss 0.5", "loss 0.5000001", True),
        ("loss 0.5", "loss 0.51", False),
        ("loss 0.5", "gain 0.5", False),
        ("3 rows", "4 rows", False),
        ("[0.1 0.25]", "[0.1        0.25000001]", True),
        ("1e-3 nan", "0.001 nan", True),
        ("nan", "0.5", False),
        ("v1.2.3", "v1.2.4", False),
        ("0.5", "0.5 0.5", False),
    ],
)
def test_a_tolerance_forgives_fractions_and_nothing_else(expected: str, got: str, same: bool) -> None:
    assert close(expected, got, 1e-6) == same


def test_a_tag_that_holds_no_tolerance_is_refused() -> None:
    assert rtol_of(["x", "rtol=1e-3"]) == 1e-3
    assert rtol_of(["hide-input"]) is None
    for tag in ("rtol=much", "rtol=nan", "rtol=2", "rtol=-1"):
        with pytest.raises(ValueError, match="expected rtol="):
            rtol_of([tag])


def test_progress_is_ignored_and_a_warning_is_not() -> None:
    def on_stderr(text: str) -> dict[str, str]:
        return {"output_type": "stream", "name": "stderr", "text": text}

    assert is_progress(on_stderr("\r  0%|  | 0/9 [00:00<?, ?it/s]\r100%|####| 9/9 [00:01<00:00, 8.5it/s]\n"))
    assert not is_progress(on_stderr("RuntimeWarning: overflow\n"))
    assert not is_progress({"output_type": "stream", "name": "stdout", "text": "100%|#| 9/9 [00:01<00:00]"})


FOREIGN = {  # a notebook that knows nothing of our package: code, tags
    "numbers": ("import numpy as np\nprint(np.linalg.svd(np.eye(3) * 0.1 + 1)[1] * NOISE)", ["rtol=1e-6"]),
    "frame": ("import pandas as pd\npd.DataFrame({'a': [0.1 * NOISE, 2.5], 'b': ['x', 'y']})", ["rtol=1e-6"]),
    "progress": (
        "import sys, time\n_ = sys.stderr.write(f' 50%|# | 1/2 [00:00<00:00, {time.time()}it/s]')",
        [],
    ),
    "figure": (
        "import matplotlib.pyplot as plt\nimport llmlite as ll\n"
        "fig, ax = plt.subplots()\n_ = ax.plot([1, 2], [3 * NOISE, 4], label='a')\n"
        "_ = ax.set_ylabel('metres')\n"
        "ll.plots.series(fig, rtol=1e-6)",
        [],
    ),
}


def foreign(noise: str, label: str = "metres") -> Any:
    nbformat = pytest.importorskip("nbformat")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(f"NOISE = {noise}")]
    for source, tags in FOREIGN.values():
        cells.append(nbformat.v4.new_code_cell(source.replace("metres", label), metadata={"tags": tags}))
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def failed_cells(folder: Path) -> tuple[list[int], str]:
    """Run nbval with the plugin on the folder's notebook; return the cells that fail, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "llmlite.nbval", "-p", "no:cacheprovider", "--nbval"]
    command += ["--nbval-current-env", "-rA", "-q", "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [int(cell) for cell in re.findall(r"^FAILED \S+::Cell (\d+)", done.stdout, re.M)], done.stdout


@pytest.mark.slow
def test_a_notebook_that_is_not_ours_passes_with_noise_and_fails_with_a_percent(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("nbval")
    executed = nbclient.NotebookClient(foreign("1")).execute()
    path = tmp_path / "foreign.ipynb"
    for noise, label, failing in (
        ("1", "metres", []),
        ("(1 + 1e-8)", "metres", []),
        ("1.01", "metres", [1, 2, 4]),
        ("1", "feet", [4]),
    ):
        changed = copy.deepcopy(executed)
        for cell, new in zip(changed.cells, foreign(noise, label).cells, strict=True):
            cell.source = new.source
        nbformat.write(changed, path)
        failed, printed = failed_cells(tmp_path)
        assert failed == failing, f"{noise}, {label}:\n{printed}"
