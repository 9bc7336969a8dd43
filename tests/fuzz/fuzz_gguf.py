"""Throw damaged files at the GGUF reader: each must be read or refused with a GGUFError, in little time.

    python tests/fuzz/fuzz_gguf.py --inputs 200000                    the mutator below, seeded, repeatable
    python tests/fuzz/fuzz_gguf.py --inputs 200000 --engine atheris   guided by coverage (pip install atheris)

Ends with a count of what happened, and exit code 1 and the input in a file if anything else did.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import fuzzing
from tests.fuzz.fuzzing import FuzzFailureError

SECONDS = 2.0  # of processor time; more for a file of a few kilobytes is a hang
MEMORY_EVERY = 100  # measuring memory is slow: one input in so many
INTERESTING = (0, 1, 2, 8, 9, 12, 13, 31, 32, 63, 64, 127, 128, 255, 256, 1 << 16, 1 << 29, 1 << 30)
EDGES = (31, 32, 62, 63, 64)


def seeds() -> tuple[list[bytes], list[bytes]]:
    """Good files of every variant and value type, with every tensor type; and all the malformed ones."""
    from llmlite.quants import TYPES
    from tests.support.gguf_builder import GGUFBuilder
    from tests.support.gguf_contents import VARIANTS, everything
    from tests.support.malformed_gguf import CASES

    files = [everything(version, byte_order).build() for version, byte_order in VARIANTS]
    for version, byte_order in VARIANTS:
        builder = GGUFBuilder(version, byte_order).kv("general.architecture", "string", "llama")
        builder.array("tokenizer.ggml.tokens", "string", [f"t{i}" for i in range(100)])
        for kind in TYPES.values():
            builder.tensor(kind.name, (kind.block_size, 2), kind.id, 2 * kind.type_size)
        files.append(builder.build())
    return files, [case.data for case in CASES if len(case.data) < 4096]


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """The file with one to four kinds of damage."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        at = dice.randrange(min(len(out), dice.choice((64, 512, len(out)))))
        kind = dice.randrange(8)
        if kind == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at] = dice.randrange(256)
        elif kind in (2, 3):
            _put_number(out, at, dice)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + dice.randrange(1, 40)]
        elif kind == 6:
            other = dice.choice(others)
            start = dice.randrange(len(other) + 1)
            out[at:at] = other[start : start + dice.randrange(1, 200)]
        else:
            end = min(len(out), at + dice.randrange(1, 60))
            out[at:at] = out[at:end] * dice.choice((1, 1, 2, 50))
    return bytes(out)


def _put_number(out: bytearray, at: int, dice: random.Random) -> None:
    """Overwrite 4 or 8 bytes with a number that matters, in either byte order."""
    value = (
        dice.choice(INTERESTING) if dice.random() < 0.6 else (1 << dice.choice(EDGES)) + dice.randint(-2, 2)
    )
    width = dice.choice((4, 8))
    raw = (value * dice.choice((1, 1, -1)) & ((1 << 8 * width) - 1)).to_bytes(
        width, dice.choice(("little", "big"))
    )
    out[at : at + width] = raw[: len(out) - at]


def check(data: bytes, folder: Path | None = None) -> str:
    """Read a file and look at all of it; return what happened. folder: write it again there, and compare.

    Raises FuzzFailureError for anything but a GGUFError, or if it took too long.
    """
    from llmlite import GGUFError, gguf

    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gguf.GGUFWarning)
            file = gguf.from_bytes(data)
    except GGUFError as error:
        if len(str(error)) > 2000 or "\n" in str(error):
            raise FuzzFailureError(f"unreadable error: {str(error)[:200]!r}") from error
        result = "refused"
    except BaseException as error:
        raise FuzzFailureError(f"{type(error).__name__}: {error}") from error
    else:
        result = "read"
        try:
            look_at_everything(file, len(data))
            if folder is not None:
                rewrite(file, folder / "again.gguf")
        except BaseException as error:
            raise FuzzFailureError(f"after reading: {type(error).__name__}: {error}") from error
    seconds = time.process_time() - started
    if seconds > SECONDS:
        raise FuzzFailureError(f"took {seconds:.1f} s")
    return result


def look_at_everything(file: object, n_bytes: int) -> None:
    """Decode every value, dequantize every tensor, walk every byte."""
    for key, value in file.metadata.items():  # type: ignore[attr-defined]
        file.metadata_type(key)  # type: ignore[attr-defined]
        list(value) if hasattr(value, "__len__") else value
    for tensor in file.tensors.values():  # type: ignore[attr-defined]
        assert tensor.dequantize().shape == tensor.shape
        tensor.block(0)
    at = 0
    for field in file.fields():  # type: ignore[attr-defined]
        assert field.offset == at, (field.offset, at)
        at += field.n_bytes
    assert at == n_bytes, (at, n_bytes)
    repr(file), file._repr_html_()  # type: ignore[attr-defined]


def rewrite(file: object, path: Path) -> None:
    """What was read can be written, and is read back the same."""
    from llmlite import gguf

    gguf.write(path, file.metadata, file.tensors)  # type: ignore[attr-defined]
    again = gguf.from_bytes(path.read_bytes())
    assert list(again.metadata) == list(file.metadata)  # type: ignore[attr-defined]
    for key in again.metadata:
        assert again.metadata_type(key) == file.metadata_type(key)  # type: ignore[attr-defined]
    for name, tensor in again.tensors.items():
        assert tensor.blocks.tobytes() == file.tensors[name].blocks.tobytes()  # type: ignore[attr-defined]


def inputs(n: int, seed: int) -> Iterator[bytes]:
    """n damaged files, the same for the same seed. Damage to damage: some become the source of later ones."""
    dice = random.Random(seed)
    good, bad = seeds()
    pool = list(good)
    for _ in range(n):
        data = mutated(dice.choice(pool if dice.random() < 0.9 else bad), good + bad, dice)
        if dice.random() < 0.02 and len(data) < 1 << 14:
            pool[len(good) :] = [*pool[len(good) :], data][-20:]
        yield data


def run(n: int, seed: int, folder: Path) -> Counter[str]:
    """Check n inputs with the mutator above, memory too of some; count what happened."""
    numbers = itertools.count()

    def one(data: bytes, folder: Path) -> str:
        return check(data) if next(numbers) % MEMORY_EVERY else _check_memory(data, folder)

    return fuzzing.run(inputs(n, seed), one, seed, folder)


def _check_memory(data: bytes, folder: Path) -> str:
    tracemalloc.start()
    try:
        result = check(data, folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # what dequantizing and a copy take is in here: 32 bytes of floats for a byte of one-bit weights
    if peak > 2_000_000 + 200 * len(data):
        raise FuzzFailureError(f"took {peak} bytes for a file of {len(data)}")
    return result


def run_atheris(n: int, seed: int, folder: Path) -> None:
    """Check n inputs that atheris makes, guided by the coverage of llmlite.gguf. Ends the process."""
    import atheris  # type: ignore[import-not-found] # optional, not a dependency

    with atheris.instrument_imports(include=["llmlite.gguf"]):
        import llmlite.gguf  # noqa: F401
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate([data for some in seeds() for data in some]):
        (corpus / f"{i:04d}.gguf").write_bytes(data)
    counts: Counter[str] = Counter()

    def one(data: bytes) -> None:
        counts[check(data)] += 1
        total = counts.total()
        if total % 10_000 == 0 or total == n:
            print(f"{total} inputs: {dict(counts)}", flush=True)

    options = [
        f"-runs={n}",
        f"-seed={seed + 1}",
        "-max_len=8192",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["own", "atheris"], default="own")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-gguf-"))
    if options.engine == "atheris":
        run_atheris(options.inputs, options.seed, folder)
        return
    started = time.monotonic()
    counts = run(options.inputs, options.seed, folder)
    print(f"{counts.total()} inputs in {time.monotonic() - started:.0f} s: {dict(counts)}; no failure")


if __name__ == "__main__":
    main()
