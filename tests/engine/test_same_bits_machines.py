"""The same bits on every machine: hashes of what the planned executor computes, stored here.

Made on x86 with AVX-512, and found again with AVX2 and FMA. On ARM: docs/numerics.md. CPUs without FMA
round products and sums apart, and are outside.

`python -m tests.engine.test_same_bits_machines [TYPE …]` prints hashes.
"""

from __future__ import annotations

import functools
import hashlib
import sys

import pytest

import llmlite as ll
from llmlite.engine.cpu import target
from llmlite.model import Model

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


def main() -> None:
    print(target())
    types = sys.argv[1:]
    for type_name, kv_dtype in HASHES:
        if not types or type_name in types:
            hashes = hash_of_logits(type_name, kv_dtype), hash_of_text(type_name, kv_dtype)
            print(type_name, kv_dtype, *(found[:16] for found in hashes), flush=True)


if __name__ == "__main__":
    main()
