"""Every command under every fault of the machine: no traceback, no lost target, nothing left over.

The exit code is one that llmlite/cli/__init__.py documents. Moments are random, of a seed that CHAOS_SEED
sets (0); CHAOS_ROUNDS (1) repeats the signals: `CHAOS_ROUNDS=10 pytest tests/models/test_chaos.py`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmlite import gguf, resources
from llmlite.system import files
from tests.support.huggingface_folders import write_folder
from tests.support.synthetic import synthetic_comparison
from tests.support.tiny_models import tiny_model

resource = pytest.importorskip("resource", reason="limits are POSIX")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and mounts as Linux has them"),
]

SEED = int(os.environ.get("CHAOS_SEED", "0"))
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
# what is written to, and what was there before
COMMANDS = {
    "run": "run BIG -n 60 --seed 1 -p hello",
    "run-chat": "run tales --chat -p hello -n 20 --seed 1",
    "show": "show BIG",
    "show-check": "show BIG --check",
    "tokenize": "tokenize - -m BIG",
    "quantize": "quantize tales out.gguf Q4_K_M --force",
    "imatrix": "imatrix SMALL TEXT -o out.gguf -c 32 --chunks 6 --force",
    "perplexity": "perplexity BIG TEXT -c 32 --chunks 6",
    "kl": "kl BIG TEXT --reference SMALL -c 32 --chunks 4",
    "convert": "convert HF out.gguf --force",
    "split": "split tales part --max-tensors 8",
    "merge": "merge PARTS/p-00001-of-00003.gguf out.gguf --force",
    "warmup": "warmup BIG",
    "synth": "synth smollm2-135m -o out.gguf --type Q4_0 --force",
    "doctor": "doctor --json",
    "lab": "lab lessons --copy-only",
    "workshop": "workshop mail day",
    "compare": "compare --from RESULTS -o out",
}
WRITING = ("quantize", "imatrix", "convert", "split", "merge", "synth", "lab", "compare")
# The moment 0 is after Python's own start, where an interrupt is Python's to report.
READY = "os.write({ready}, b'.'); os.close({ready})"
START = f"import os, sys\nfrom llmlite.cli import main\n{READY}\nsys.exit(main())"
OLD = b"an older file"


class Place:
    """The inputs that all commands share, and a folder to work in for each run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        big, small = root / "big.gguf", root / "small.gguf"
        tiny_model(n_ctx=64, n_layer=3).write(big, "Q8_0")
        tiny_model(n_ctx=64).write(small)
        (root / "text.txt").write_text("the cat sat on the mat and the sun shone in. " * 60)
        write_folder(root / "hf", tiny_model())
        (root / "parts").mkdir()
        gguf.split(resources.model_path("tales"), root / "parts" / "p", max_tensors=16)
        synthetic_comparison().save(root / "results.jsonl")
        self.words = {
            "BIG": str(big), "SMALL": str(small), "TEXT": str(root / "text.txt"), "HF": str(root / "hf"),
            "PARTS": str(root / "parts"), "RESULTS": str(root / "results.jsonl"),
        }  # fmt: skip
        self.seconds: dict[str, float] = {}

    def arguments(self, name: str) -> list[str]:
        found = []
        for word in COMMANDS[name].split():
            for short, path in self.words.items():
                word = word.replace(short, path)
            found.append(word)
        return found

    def start(self, name: str, folder: Path, prefix: str = "", **options: object) -> subprocess.Popen:
        """Start a command in the folder; return when Python has started and main() begins."""
        read, write = os.pipe()
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}  # type: ignore[dict-item]
        env.pop("OPENBLAS_NUM_THREADS", None)  # a user's process has none: see limits.spare_blas
        code = prefix + START.format(ready=write)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *self.arguments(name)],
            cwd=folder, env=env, pass_fds=[write], **{**streams, **options},  # type: ignore[call-overload]
        )  # fmt: skip
        os.close(write)
        os.read(read, 1)
        os.close(read)
        return process

    def took(self, name: str) -> float:
        """Seconds that the command takes undisturbed, kernels compiled, after Python's start."""
        if name not in self.seconds:
            for _ in range(2):
                folder = self.folder(name)
                process = self.start(name, folder)
                begin = time.monotonic()
                message = process.communicate(timeout=300)[1].decode()
                self.seconds[name] = time.monotonic() - begin
                assert process.returncode == 0, message
                self.check(name, folder, message, whole=True)
        return self.seconds[name]

    def folder(self, name: str) -> Path:
        """A fresh folder in which the targets that can be replaced hold an older file."""
        folder = self.root / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if "--force" in COMMANDS[name]:
            (folder / "out.gguf").write_bytes(OLD)
        if name == "compare":
            (folder / "out").mkdir()
            (folder / "out" / "comparison.txt").write_bytes(OLD)
        return folder

    def check(
        self, name: str, folder: Path, message: str, *, whole: bool = False, killed: bool = False
    ) -> None:
        """No traceback; each target is the old file or a whole new one; nothing else is there."""
        assert "Traceback" not in message and "Exception ignored" not in message, message
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            if killed and files.PART.fullmatch(path.name):
                continue
            assert not path.name.endswith((".part", ".tmp")), f"{path} is left over"
            content = path.read_bytes()
            if content == OLD:
                assert not whole, f"{path} wasn't written"
            elif path.suffix == ".gguf":
                assert name != "split" or path.name.startswith("part-"), path
                gguf.check_weights(gguf.file.read_one(path))
            elif path.suffix == ".png":
                assert content.endswith(b"IEND\xaeB`\x82"), path
            elif path.suffix == ".ipynb":
                assert content == shipped(path.relative_to(folder / "lessons")).read_bytes(), path
            else:
                assert content, f"{path} is empty"
        if name == "split":
            parts = sorted(folder.glob("part-*.gguf"))
            if parts and not killed:
                assert int(parts[0].name[-10:-5]) == len(parts), "all files or none"


def shipped(name: Path) -> Path:
    return resources.notebooks_path() / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("chaos"))


def moments(place: Place, name: str, kind: str, n: int) -> Iterator[float]:
    """Random moments of a command's run."""
    chance = random.Random(f"{SEED} {name} {kind}")
    for _ in range(n * ROUNDS):
        yield chance.uniform(0.0, 1.05) * place.took(name)


def interrupted(place: Place, name: str, number: int, moment: float) -> tuple[int, Path, str]:
    folder = place.folder(name)
    process = place.start(name, folder)
    time.sleep(moment)
    process.send_signal(number)
    message = process.communicate(timeout=120)[1].decode()
    return process.returncode, folder, message


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_at_any_moment_ends_a_command_cleanly(place: Place, name: str, number: int) -> None:
    for moment in moments(place, name, str(number), 2 if name in WRITING else 1):
        code, folder, message = interrupted(place, name, number, moment)
        # -number: before main() looks after signals, or when the work is done
        assert code in (0, 128 + number, -number), (moment, code, message)
        place.check(name, folder, message)


@pytest.mark.parametrize("name", WRITING)
def test_a_killed_command_loses_nothing_and_the_next_one_clears_up(place: Place, name: str) -> None:
    for moment in moments(place, name, "kill", 2):
        code, folder, message = interrupted(place, name, signal.SIGKILL, moment)
        assert code in (0, -signal.SIGKILL)
        place.check(name, folder, message, killed=True)
        process = place.start(name, folder)
        message = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 0, message
        place.check(name, folder, message)


def ended(place: Place, name: str, folder: Path, **options: object) -> tuple[int, str]:
    process = place.start(name, folder, **options)  # type: ignore[arg-type]
    out, err = process.communicate(timeout=240)
    return process.returncode, (out or b"").decode() + (err or b"").decode()


def limit_of_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_grow_is_a_sentence_that_names_it(place: Place, name: str) -> None:
    place.took(name)  # kernels are in the cache
    folder = place.folder(name)
    code, message = ended(place, name, folder, preexec_fn=limit_of_files)
    place.check(name, folder, message)
    if name in WRITING:
        assert code == 2, message
        assert "File too large" in message.splitlines()[-1], message
        assert any(word in message for word in ("out", "part-", "lessons")), message
    else:
        assert code in (0, 1), message


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_a_sentence_that_names_the_file(place: Place, name: str) -> None:
    folder = place.folder(name)
    place.took(name)
    shutil.rmtree(folder)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "chaos", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        if "--force" in COMMANDS[name]:
            (folder / "out.gguf").write_bytes(OLD)
        code, message = ended(place, name, folder)
        assert code == 2, message
        assert "No space left on device" in message.splitlines()[-1], message
        assert any(word in message.splitlines()[-1] for word in ("out", "part-", "lessons")), message
        place.check(name, folder, message)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_closed_streams_are_no_traceback_and_never_part_of_a_file(place: Place, name: str) -> None:
    place.took(name)
    for numbers in ((0, 2), (0, 1, 2)):
        folder = place.folder(name)

        def close(numbers: tuple[int, ...] = numbers) -> None:
            for number in numbers:
                os.close(number)

        code, message = ended(place, name, folder, preexec_fn=close, stdin=None)
        if 1 in numbers:
            assert code == 2 and (2 in numbers or "standard output is closed" in message)
            if "--force" in COMMANDS[name]:
                assert (folder / "out.gguf").read_bytes() == OLD
        else:
            assert code == 0, message
        place.check(name, folder, message)


@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_cannot_be_written_is_exit_code_2(place: Place, name: str) -> None:
    place.took(name)
    folder = place.folder(name)
    with open("/dev/full", "w") as full:
        code, message = ended(place, name, folder, stdout=full)
        assert code == 2 and "standard output: No space left on device" in message, message
        place.check(name, folder, message)
        code, _ = ended(place, name, place.folder(name), stderr=full)
        assert code == 0


@pytest.mark.parametrize("name", ["run", "warmup", "perplexity", "quantize", "lab", "tokenize"])
def test_a_home_that_cannot_be_written_costs_a_line(place: Place, name: str) -> None:
    folder = place.folder(name)
    home = {"HOME": "/proc/nosuch", "XDG_CACHE_HOME": "/proc/nosuch/cache", "TMPDIR": str(place.root / "tmp")}
    (place.root / "tmp").mkdir(exist_ok=True)
    before = os.environ.pop("LLMLITE_CACHE", None)
    try:
        code, message = ended(place, name, folder, env=home)
    finally:
        if before is not None:
            os.environ["LLMLITE_CACHE"] = before
    assert code == 0, message
    assert message.count("can't be written") <= 1
    place.check(name, folder, message)


def limit_of_memory(n_megabytes: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (n_megabytes << 20, n_megabytes << 20))

    return limit


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("megabytes", [220, 400])
def test_little_memory_is_a_sentence_or_a_slower_way(place: Place, name: str, megabytes: int) -> None:
    place.took(name)
    folder = place.folder(name)
    code, message = ended(place, name, folder, preexec_fn=limit_of_memory(megabytes))
    assert code in (0, 1, 2), message
    assert code != 2 or message.splitlines()[-1].startswith("llmlite: "), message
    place.check(name, folder, message)
