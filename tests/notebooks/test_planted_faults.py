"""Plant a fault in a copy of the package and see a lesson turn red: what the lessons are worth as tests.

Each fault is one change of one line, in the code that a lesson drives. The lesson's instructor copy runs
under nbval as `make test` runs it, against the faulty copy; the same lesson must pass on an unchanged copy,
or its failing would say nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("nbval")

from llmlite.resources import cache_dir

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fault:
    """A change that a reader of the lesson would be misled by.

    Attributes:
        file: under llmlite/. old, new: the text that is there once, and what stands there instead.
        lesson: whose number must turn red.
    """

    file: str
    old: str
    new: str
    lesson: str


FAULTS: Mapping[str, Fault] = {
    "a kernel is wrong by 1 %": Fault(
        "engine/kernels/quantized.py",
        "store(out + (t * n_rows + r) * 4, reduce_add(total))",
        "store(out + (t * n_rows + r) * 4, f32(f32(1.01) * reduce_add(total)))",
        "07",
    ),
    "an axis has another label": Fault(
        "plots/caching.py", 'x_label="generated tokens"', 'x_label="tokens"', "05"
    ),
    "a default is another one": Fault(
        "sampling/sampler.py", "        temperature: float = 0.8,", "        temperature: float = 1.0,", "06"
    ),
    "the nibbles of a byte are swapped": Fault(
        "quants/legacy.py",
        'Parts(unpack_bits(b["qs"], 4, 16).view(np.int8) - np.int8(8)',
        'Parts(unpack_bits(b["qs"] >> 4 | b["qs"] << 4, 4, 16).view(np.int8) - np.int8(8)',
        "02",
    ),
    "tensors are aligned otherwise": Fault(
        "gguf/parse.py", "DEFAULT_ALIGNMENT = 32", "DEFAULT_ALIGNMENT = 64", "01"
    ),
    "a token looks one ahead": Fault(
        "engine/eager.py",
        "hidden = distance < 0",
        "hidden = distance < -1",
        "04",
    ),
    "keys are counted, values forgotten": Fault(
        "lessons/caching.py", "return 2 * n_layer * int(", "return n_layer * int(", "05"
    ),
    "perplexity forgets a token": Fault(
        "bench/quality.py",
        "return negative_log_likelihoods(logits[first:-1], original[first + 1 :])",
        "return negative_log_likelihoods(logits[first:-1], original[first:-1])",
        "03",
    ),
    "a difference is called on three blocks": Fault(
        "bench/summary.py", "MIN_BLOCKS = 5", "MIN_BLOCKS = 3", "08"
    ),
    "attention's scores are scaled otherwise": Fault(
        "lessons/one_token.py",
        'scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(size)',
        'scores = np.einsum("thd,shd->hts", q, k) / size',
        "03b",
    ),
    "a model is exported with another RoPE": Fault(
        "lessons/training.py", '"rope_theta": BASE,', '"rope_theta": 2 * BASE,', "09"
    ),
    "a verdict is another one": Fault(
        "lessons/choosing_tools.py",
        "(each.key, each.claim, each.verdict)",
        "(each.key, each.claim, each.key)",
        "10",
    ),
    "a window sees one token less": Fault(
        "lessons/mixers.py",
        '"attention.sliding_window": WINDOW}',
        '"attention.sliding_window": WINDOW - 1}',
        "11",
    ),
    "another checksum is computed": Fault(
        "resources.py", 'file_digest(file, "sha256")', 'file_digest(file, "sha512")', "00"
    ),
}


def package_copy(folder: Path, fault: Fault | None) -> Path:
    """Copy the package into a folder that looks like a checkout; plant the fault."""
    shutil.copytree(ROOT / "llmlite", folder / "llmlite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)  # the mark of a checkout: data is beside the package
    for name in ("data", "notebooks"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    if fault:
        path = folder / "llmlite" / fault.file
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, (
            f"{fault.file}: {fault.old!r} is there {text.count(fault.old)} times"
        )
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return folder


def nbval(lesson: str, folder: Path, cache: Path) -> tuple[bool, str]:
    """Run a lesson under nbval on the package in `folder`; return whether it passed, and pytest's output."""
    (notebook,) = (ROOT / "notebooks" / "instructor").glob(f"{lesson}_*.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "llmlite.nbval", "-p", "no:cacheprovider"]
    command += ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=120", "-q", str(notebook)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        # first in the kernel's path
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "LLMLITE_CACHE": str(cache),
            "NO_COLOR": "1",
            "OPENBLAS_CORETYPE": "Prescott",  # NumPy adds in another order, as on a learner's other CPU
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cache in use: warm kernels, and nothing faulty is left behind in the user's own."""
    return Path(shutil.copytree(cache_dir(), tmp_path_factory.mktemp("faults") / "cache"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, tuple[bool, str]]:
    """Whether each lesson passes on an unchanged copy, asked once."""
    folder = package_copy(tmp_path_factory.mktemp("sound"), None)
    return {
        lesson: nbval(lesson, folder, cache) for lesson in sorted({fault.lesson for fault in FAULTS.values()})
    }


def test_every_lesson_has_a_fault_to_notice() -> None:
    lessons = {path.stem.partition("_")[0] for path in (ROOT / "notebooks" / "source").glob("*_*.py")}
    assert {fault.lesson for fault in FAULTS.values()} == lessons


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_turns_its_lesson_red(
    name: str, sound: dict[str, tuple[bool, str]], cache: Path, tmp_path: Path
) -> None:
    fault = FAULTS[name]
    passed, output = sound[fault.lesson]
    assert passed, f"lesson {fault.lesson} fails without any fault:\n{output}"
    passed, output = nbval(fault.lesson, package_copy(tmp_path, fault), cache)
    assert not passed, f"lesson {fault.lesson} didn't notice: {name}"
    assert " failed" in output, output  # a cell's verdict, not a crash of pytest itself
