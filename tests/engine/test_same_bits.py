"""Matrix products: one token alone gives the bits that it gives among many, on every compiled CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmlite.engine.families import FAMILIES, Family
from llmlite.quants import get
from llmlite.quants.tensor import QuantTensor
from tests.support.machine import AVX2, AVX512, ON_SMALLER_CPUS, environment_of, host_has
from tests.support.planned import FAST, NAMES, product, quantized_activations, random_weights

TYPES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
# whole groups of 256, tails of them, more than a chunk of 2048; rows of less than a tile, and of some
WIDTHS = {
    1: (16, 32, 144, 576, 672, 1056),
    32: (32, 256, 288, 576, 672, 2048, 2080, 4192),
    256: (256, 512, 2048, 2304),
}
ROWS = (1, 37, 64)
TOKENS = (1, 2, 3, 7, 16, 64, 65)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32)


def check_type(name: str) -> None:
    """Fail unless every number of tokens, rows, columns and threads gives the same bits, and NumPy's sums."""
    rng = np.random.default_rng(7)
    for width in WIDTHS[NAMES[name].block]:
        for n_rows in ROWS:
            w = random_weights(name, n_rows, width)
            x = rng.standard_normal((max(TOKENS), width)).astype(np.float32) + np.float32(0.3)
            single = product(w, x, 1, at_once=1)
            exact = x if NAMES[name].block == 1 else quantized_activations(x)
            want = exact.astype(np.float64) @ w.dequantize().astype(np.float64).T
            assert np.abs(single - want).max() <= 1e-5 * np.abs(want).max(), (name, n_rows, width)
            for n_threads in (1, 2):
                for T in TOKENS:
                    found = product(w, x[:T], n_threads)
                    np.testing.assert_array_equal(
                        bits(found), bits(single[:T]), str((name, n_rows, width, T))
                    )


@pytest.mark.parametrize("name", TYPES)
def test_a_token_alone_gives_the_bits_that_it_gives_among_many(name: str) -> None:
    check_type(name)


@pytest.mark.slow
@ON_SMALLER_CPUS
def test_and_so_it_does_on_smaller_cpus(name: str, features: str, tmp_path: Path) -> None:
    env = environment_of(name, features, tmp_path)
    script = "from tests.engine.test_same_bits import NAMES, check_type\nfor name in NAMES: check_type(name)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def digest_of_products() -> str:
    """Return a hash of one product of every type, by the kernels of this process's target."""
    import hashlib

    digest = hashlib.sha256()
    for name, family in NAMES.items():
        width = WIDTHS[family.block][-1]
        rng = np.random.default_rng(11)
        w = QuantTensor.quantize(rng.standard_normal((37, width)).astype(np.float32), name, "w")
        digest.update(product(w, rng.standard_normal((7, width)).astype(np.float32), 2).tobytes())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(not host_has("avx512f", "avx2", "fma", "f16c"), reason="this CPU has no AVX-512")
def test_avx2_and_avx512_give_the_same_bits(tmp_path: Path) -> None:
    script = "from tests.engine.test_same_bits import digest_of_products\nprint(digest_of_products())"
    root = Path(__file__).resolve().parents[2]
    found = set()
    for name, features in (("haswell", AVX2), ("skylake-avx512", AVX512)):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LLMLITE_CACHE": str(tmp_path)}
        env |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.add(done.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize("number", FAMILIES)
def test_a_family_knows_the_block_that_the_file_format_has(number: int) -> None:
    family: Family = FAMILIES[number]
    assert (family.block, family.block_bytes) == (get(number).block_size, get(number).type_size)
