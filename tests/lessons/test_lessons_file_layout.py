"""The map of a file's bytes: without a hole, and the same both ways."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import llmlite as ll
from llmlite.lessons.file_layout import REGIONS, ByteMap


@pytest.fixture(scope="module")
def map_() -> ByteMap:
    return ByteMap(ll.gguf.read(ll.model_path("tales")))


def test_regions_hold_every_byte_once(map_: ByteMap) -> None:
    assert [r.name for r in map_.regions] == [n for n in REGIONS if n in {r.name for r in map_.regions}]
    assert sum(r.n_bytes for r in map_.regions) == map_.file.file_size
    assert map_.regions[0].n_bytes == 24 and map_.regions[0].n_fields == 4


def test_a_byte_gives_the_field_that_holds_it_and_a_field_its_bytes(map_: ByteMap) -> None:
    for i in (0, 1, 2, 3, 10, 93, len(map_.fields) - 1):
        field = map_.fields[i]
        assert map_.at(field.offset) == i == map_.at(field.offset + field.n_bytes - 1)
    assert map_.raw(0) == b"GGUF"
    with pytest.raises(ValueError, match="not in the file"):
        map_.at(map_.file.file_size)


def test_what_it_says_to_read_a_number_by_gives_that_number(map_: ByteMap) -> None:
    data = map_.data.tobytes()
    numbers = [i for i in range(120) if map_.how_to_read(i).startswith("struct")]
    assert len(numbers) > 50
    for i in numbers:
        assert eval(map_.how_to_read(i), {"struct": struct, "data": data})[0] == map_.fields[i].value


def test_a_tensors_fields_belong_to_the_tensor_list_and_its_weights_to_the_data(map_: ByteMap) -> None:
    assert map_.region(map_.named("token_embd.weight: type")) == "tensor list"
    assert map_.region(map_.named("token_embd.weight: name: length")) == "tensor list"
    assert map_.region(map_.named("token_embd.weight: data")) == "tensor data"
    assert map_.region(map_.named("general.name")) == "metadata"
    with pytest.raises(KeyError):
        map_.named("nosuch")


def test_an_empty_string_holds_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    ll.gguf.write(path, {"general.architecture": "llama", "general.name": "", "z": 1}, {})
    map_ = ByteMap(ll.gguf.read(path))
    empty = map_.fields[map_.named("general.name")]
    assert empty.n_bytes == 0
    assert all(map_.fields[map_.at(b)].n_bytes > 0 for b in range(len(map_.data)))
