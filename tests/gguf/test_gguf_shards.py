"""Split models: one file read from its parts, split and merged without a change."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from llmlite import GGUFError, gguf
from llmlite.gguf import shards
from tests.support.gguf_contents import METADATA, assert_same_file, random_tensors


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file with every value type and a tensor of every type."""
    path = tmp_path / "whole.gguf"
    gguf.write(path, METADATA, random_tensors(), alignment=64)
    return path


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_split_model_reads_as_one_file_and_merges_into_the_same_bytes(
    tmp_path: Path, byte_order: str
) -> None:
    whole = tmp_path / "whole.gguf"
    gguf.write(whole, METADATA, random_tensors(), alignment=64, byte_order=byte_order)
    paths = gguf.split(whole, tmp_path / "part", max_tensors=4)
    original = gguf.read(whole)
    assert len(paths) == -(-len(original.tensors) // 4)
    assert paths[0] == str(tmp_path / f"part-00001-of-{len(paths):05d}.gguf")
    for mmap in (True, False):
        file = gguf.read(paths[0], mmap=mmap)
        assert_same_file(file, original)
        assert [len(shard.tensors) for shard in file.shards[:-1]] == [4] * (len(paths) - 1)
        assert file.file_size == sum(Path(path).stat().st_size for path in paths)
        assert f"in {len(paths)} files" in repr(file)
    gguf.merge(paths[0], tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == whole.read_bytes()


def test_shards_say_what_they_are(whole: Path, tmp_path: Path) -> None:
    paths = gguf.split(whole, tmp_path / "part", max_tensors=10)
    for index, shard in enumerate(gguf.read(paths[0]).shards):
        assert shard.path == paths[index]
        assert shard.metadata["split.no"] == index
        assert shard.metadata["split.count"] == len(paths)
        assert shard.metadata["split.tensors.count"] == len(random_tensors())
        types = [shard.metadata_type(f"split.{key}") for key in ("no", "count", "tensors.count")]
        assert types == ["u16", "u16", "i32"]
        assert ("general.architecture" in shard.metadata) == (index == 0)
        assert shard.alignment == 64


def test_split_by_bytes_keeps_each_file_below_unless_one_tensor_is_larger(tmp_path: Path) -> None:
    sizes = [10, 10, 100, 10, 10, 10, 30]
    tensors = {f"t{i}": np.full(n, i, np.float32) for i, n in enumerate(sizes)}
    gguf.write(tmp_path / "a.gguf", {}, tensors)
    paths = gguf.split(tmp_path / "a.gguf", tmp_path / "part", max_bytes=130)
    groups = [list(shard.tensors) for shard in gguf.read(paths[0]).shards]
    assert groups == [["t0", "t1"], ["t2"], ["t3", "t4", "t5"], ["t6"]]


def test_one_file_is_enough_for_a_small_model(tmp_path: Path) -> None:
    gguf.write(tmp_path / "a.gguf", {"a": 1}, {"t": np.zeros(4, np.float32)})
    (path,) = gguf.split(tmp_path / "a.gguf", tmp_path / "part", max_tensors=5)
    file = gguf.read(path)
    assert file.shards == [] and file.metadata["split.count"] == 1 and list(file.tensors) == ["t"]
    with pytest.raises(GGUFError, match="a whole model"):
        gguf.merge(path, tmp_path / "b.gguf")


def test_split_model_can_be_split_anew(whole: Path, tmp_path: Path) -> None:
    first = gguf.split(whole, tmp_path / "a", max_tensors=3)[0]
    again = gguf.split(first, tmp_path / "b", max_tensors=7)
    assert_same_file(gguf.read(again[0]), gguf.read(whole))


def test_interrupted_split_is_no_model(whole: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gguf.split(whole, tmp_path / "part", max_tensors=3, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]  # all parts, or none


@pytest.mark.parametrize("limits", [{}, {"max_tensors": 0}, {"max_bytes": -1}])
def test_limits_must_make_sense(whole: Path, tmp_path: Path, limits: dict) -> None:
    with pytest.raises(ValueError):
        gguf.split(whole, tmp_path / "part", **limits)


def test_closing_lets_go_of_all_files(whole: Path, tmp_path: Path) -> None:
    first = gguf.split(whole, tmp_path / "part", max_tensors=9)[0]
    with gguf.read(first) as file:
        parts = file.shards
    for part in (file, *parts):
        with pytest.raises(ValueError, match="closed"):
            _ = part.tensors


def test_progress_covers_all_files(whole: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    gguf.split(whole, tmp_path / "part", max_tensors=5, progress=lambda *n: calls.append(n))
    total = sum(tensor.n_bytes for tensor in random_tensors().values())
    assert calls[-1] == (total, total) and sorted(calls) == calls


def test_opening_and_listing_hundreds_of_tensors_in_many_files_is_fast(tmp_path: Path) -> None:
    tensors = {f"blk.{i}.ffn_up.weight": np.zeros((4, 32), np.float32) for i in range(800)}
    gguf.write(tmp_path / "a.gguf", {}, tensors)
    first = gguf.split(tmp_path / "a.gguf", tmp_path / "part", max_tensors=50)[0]
    seconds = []
    for _ in range(3):
        started = time.process_time()
        rows = [(t.name, t.type.name, t.shape, t.n_bytes) for t in gguf.read(first).tensors.values()]
        seconds.append(time.process_time() - started)
    assert len(rows) == 800 and min(seconds) < 0.3  # about 0.03


def test_names_are_those_of_llama_cpp() -> None:
    assert shards.shard_path("model", 0, 12) == "model-00001-of-00012.gguf"
