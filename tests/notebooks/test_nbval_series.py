"""The comparison of plotted data must catch what a reader would be misled by, and nothing else."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks.nbval_series import MIME, difference, split

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
            "tests.notebooks.nbval_series",
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
