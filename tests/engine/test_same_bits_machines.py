"""The same bits on every machine: hashes of what the planned executor computes, stored here.

Made on x86 with AVX-512, and found again with AVX2 and FMA. On ARM: docs/numerics.md. CPUs without FMA
round products and sums apart, and are outside.

`python -m tests.engine.test_same_bits_machines [TYPE …]` prints hashes.
"""

from __future__ import annotations

import functools
import hashlib
import sys

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.cpu import target
from llmlite.model import Model
from llmlite.quants.tensor import QuantTensor
from tests.support.planned import FAST, NAMES, product

pytestmark = pytest.mark.skipif(
    target().architecture != "arm" and not target().has("fma"), reason="this CPU has no FMA"
)
N_IDS = 200
# (type, keys and values) -> the first digits of the hash of the logits, and of the text
HASHES = {
    ("F16", "f32"): ("7468a15e1bec7fe8", "3bd1b529068bbedc"),
    ("F16", "f16"): ("7714f749f998c712", "3bd1b529068bbedc"),
    ("Q8_0", "f32"): ("a950733e3de2d6b7", "6a84b3d40ec30ec2"),
    ("Q8_0", "f16"): ("3ccab4b30c92b183", "ccad2810a70d92da"),
    ("Q4_0", "f32"): ("1af2b97ebde4e70c", "7f3a3ea9e3b2498b"),
    ("Q4_0", "f16"): ("59536b8339e2ec67", "8b77c08865719944"),
}
# type -> the first digits of the hashes of a product with 1, 7 and 40 tokens, which take three kernels
PRODUCTS = {
    "F32": ("7602006c8c9d", "747edc5a1247", "15ec3365d17e"),
    "F16": ("56beda08fc42", "4e1e7d9fc5fa", "7fbb52adb5f8"),
    "BF16": ("40309f3bd68b", "d8de5da43a1b", "2339d53e8b31"),
    "Q4_0": ("8a96ed0695cd", "b7b2b1c43514", "baabf17f1bbb"),
    "Q4_1": ("943efd7349fe", "d9ed160e4b6b", "a04cba3b8d93"),
    "Q5_0": ("576e094be753", "b58d3791351e", "18b9b0c90178"),
    "Q5_1": ("092ab1c40741", "a6b9cdc10b27", "23c6b45ac781"),
    "Q8_0": ("c4ff3b406f58", "af4a93dcd369", "55d88843603f"),
    "IQ4_NL": ("a73b6e9161cb", "e26d0415bddd", "343db26d6ce5"),
    "MXFP4": ("9660b34a6426", "9b42fff3f789", "4041531f62ce"),
    "Q2_K": ("e4dbd87199f0", "28e645b29a21", "1f306be99419"),
    "Q3_K": ("dd4b290d9093", "5db2948de0b9", "ea5aa773a051"),
    "Q4_K": ("f771538f1feb", "9647eedad59e", "66272b664593"),
    "Q5_K": ("f1dfa6913e4b", "8632723ca784", "065152a0c920"),
    "Q6_K": ("8c65b68d5ac1", "df8929f30063", "005e8c195f3a"),
    "IQ4_XS": ("9f5d0edbd504", "8f95497cc2cf", "b2c7a9a779a7"),
}
WIDTHS = {1: 1056, 32: 4192, 256: 2304}  # by the weights of a block: more than a chunk of 2048, and a rest


@functools.cache
def tales(type_name: str, kv_dtype: str) -> Model:
    return ll.load(f"tales:{type_name}", executor="planned", kv_dtype=kv_dtype)


def hash_of_logits(type_name: str, kv_dtype: str) -> str:
    model = tales(type_name, kv_dtype)
    n_vocab = model.config.n_vocab
    logits = model.logits([1, *((37 * i + 11) % n_vocab for i in range(1, N_IDS))])
    assert logits.shape == (N_IDS, n_vocab)
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()


def hash_of_text(type_name: str, kv_dtype: str) -> str:
    text = str(tales(type_name, kv_dtype).generate("Once upon a time", max_tokens=N_IDS, temperature=0))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("type_name", "kv_dtype"), HASHES)
def test_every_machine_computes_the_stored_bits(type_name: str, kv_dtype: str) -> None:
    logits, text = HASHES[type_name, kv_dtype]
    assert hash_of_logits(type_name, kv_dtype).startswith(logits)
    assert hash_of_text(type_name, kv_dtype).startswith(text)


def hashes_of_products(type_name: str) -> tuple[str, ...]:
    random = np.random.default_rng(11)
    shape = 37, WIDTHS[NAMES[type_name].block]
    w = QuantTensor.quantize(random.standard_normal(shape).astype(np.float32), type_name, "w")
    x = random.standard_normal((40, shape[1])).astype(np.float32)
    return tuple(hashlib.sha256(product(w, x[:n], 1).tobytes()).hexdigest() for n in (1, 7, 40))


@pytest.mark.parametrize(
    "type_name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PRODUCTS]
)
def test_every_machine_multiplies_to_the_stored_bits(type_name: str) -> None:
    for found, stored in zip(hashes_of_products(type_name), PRODUCTS[type_name], strict=True):
        assert found.startswith(stored)


def test_every_type_with_kernels_has_stored_products() -> None:
    assert PRODUCTS.keys() == NAMES.keys()


def main() -> None:
    print(target())
    types = sys.argv[1:]
    for type_name, kv_dtype in HASHES:
        if not types or type_name in types:
            hashes = hash_of_logits(type_name, kv_dtype), hash_of_text(type_name, kv_dtype)
            print(type_name, kv_dtype, *(found[:16] for found in hashes), flush=True)
    for type_name in PRODUCTS:
        if not types or type_name in types:
            print(type_name, "product", *(found[:12] for found in hashes_of_products(type_name)), flush=True)


if __name__ == "__main__":
    main()
