"""Test the types, architectures and old formats that a backend reads, each with a small real file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from llmlite import gguf, resources, synth
from llmlite.bench import old_formats
from llmlite.bench.backends import BACKENDS
from llmlite.bench.process import BackendError, WorkerProcess
from llmlite.description.architectures import ARCHITECTURES


class Reader:
    """A backend in its own process, which is started again if a file makes it crash.

    Args:
        name: name of the backend.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: WorkerProcess | None = None

    def reads(self, path: Path) -> bool:
        """Return whether the backend loads a file and makes a token."""
        try:
            if self.worker is None:
                python = BACKENDS[self.name].python() or None
                self.worker = WorkerProcess(self.name, 1, python=python, timeout=120)
                self.worker.ask("start")
            self.worker.ask("load", model=str(path), n_ctx=32, n_threads=1)
            self.worker.ask("prefill", ids=[1, 2, 3])
        except BackendError as error:
            if "process ended" in str(error) or "no answer" in str(error):
                self.close()
            return False
        return True

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def types(name: str, type_names: Iterable[str]) -> dict[str, bool]:
    """Return, for each type, whether a backend reads the bundled model in it."""
    return _read(name, {each: resources.model_path(f"tales:{each}") for each in type_names})


def shapes() -> dict[str, str]:
    """Return, for each decoder architecture, the name of a shape that `llmlite.synth` knows."""
    found: dict[str, str] = {}
    for name, shape in synth.SHAPES.items():
        if ARCHITECTURES[shape.architecture].causal:
            found.setdefault(shape.architecture, name)
    return found


def architectures(names: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return, for each architecture and each backend of `names`, whether it reads a small random file."""
    found: dict[str, dict[str, bool]] = {}
    # the readers end first, because Windows can't remove a file that one of them has mapped
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        readers = {name: stack.enter_context(Reader(name)) for name in names}
        for architecture, shape in shapes().items():
            path = Path(folder) / f"{architecture}.gguf"
            synth.synthesize(path, shape, "Q8_0", small=True)
            found[architecture] = {name: reader.reads(path) for name, reader in readers.items()}
            with suppress(OSError):
                path.unlink()
    return found


def old_forms(names: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Return, for each backend and each older format, whether the backend reads a small file.

    For llmlite, the file is converted first.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths, converted = {}, {}
        for form in old_formats.FORMS:
            paths[form] = Path(folder) / f"{form.replace(' ', '-')}.bin"
            converted[form] = paths[form].with_suffix(".gguf")
            old_formats.write(paths[form], form)
            gguf.convert_legacy(paths[form], converted[form], n_ctx=64)
        return {name: _read(name, converted if name == "llmlite" else paths) for name in names}


def _read(name: str, paths: Mapping[str, Path]) -> dict[str, bool]:
    """Return, for each file, whether a backend reads it."""
    with Reader(name) as reader:
        return {key: reader.reads(path) for key, path in paths.items()}
