"""Every way a GGUF file can be wrong: refused with the field, the offset, what was expected, what was there.

Numbers are those of the project's list of malformed files; each case is a file of a few hundred bytes. The
same errors must come whether the file is mapped or read, in little time and memory.
"""

from __future__ import annotations

import pickle
import random
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmlite import GGUFError, gguf
from tests.fuzz.fuzz_gguf import mutated
from tests.support.gguf_builder import GGUFBuilder
from tests.support.malformed_gguf import CASES, Case, new


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Writes bytes to a file and returns its path."""

    def write(data: bytes) -> Path:
        path = tmp_path / "bad.gguf"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("case", CASES, ids=str)
def test_malformed_file_is_refused(case: Case, written: Callable[[bytes], Path]) -> None:
    path = written(case.data)
    for mmap in (True, False):
        tracemalloc.start()
        started = time.process_time()
        with pytest.raises(GGUFError) as caught:
            gguf.read(path, mmap=mmap)
        seconds = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        error = caught.value
        assert (error.path, error.field, error.offset) == (str(path), case.field, case.offset)
        assert case.expected in error.expected
        assert case.got in str(error.got)
        assert case.hint in (error.hint or "")
        assert str(error).startswith(f"{path}: {case.field} at byte {case.offset}: expected ")
        assert "\n" not in str(error) and len(str(error)) < 400 + len(str(path))
        assert peak < 100_000 + 8 * len(case.data)
        assert seconds < 1


def test_table_covers_the_reader_s_part_of_the_list() -> None:
    # 7 and 53 are read; 10 and 11, counts of 2^40 and 2^29, stand beside the negative ones
    here = {case.number for case in CASES} | {7, 10, 11, 53}
    assert here == set(range(1, 54))


def test_07_opposite_byte_order_is_read() -> None:
    builder = (
        GGUFBuilder(3, "big")
        .kv("general.name", "string", "big")
        .tensor("t", (1,), 0, 4, data=b"\x3f\x80\0\0")
    )
    file = gguf.from_bytes(builder.build())
    assert (file.byte_order, file.metadata["general.name"]) == ("big", "big")
    assert file.tensors["t"].dequantize().tolist() == [1.0]


def test_53_trailing_bytes_are_read_with_a_warning(written: Callable[[bytes], Path]) -> None:
    builder = new().tensor()
    path = written(builder.build(extra=b"junk!"))
    with pytest.warns(
        gguf.GGUFWarning, match=f"5 bytes follow the last tensor, from byte {builder.at['end']}"
    ):
        file = gguf.read(path)
    assert file.tensors["weight"].n_bytes == 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gguf.read(written(builder.build()))


def split_file(
    folder: Path, name: str, n: int | None, count: int | None, total: int = 2, **tensor: object
) -> Path:
    """One file of a split model, with one tensor."""
    builder = GGUFBuilder().tensor(name, **tensor)  # type: ignore[arg-type]
    if n is not None:
        builder.kv("split.no", "u16", n)
    if count is not None:
        builder.kv("split.count", "u16", count)
    builder.kv("split.tensors.count", "i32", total)
    path = folder / f"model-{(n or 0) + 1:05d}-of-{count or 0:05d}.gguf"
    path.write_bytes(builder.build())
    return path


def test_67_missing_shard(tmp_path: Path) -> None:
    first = split_file(tmp_path, "a", 0, 2)
    with pytest.raises(
        GGUFError, match=r"00002-of-00002\.gguf.*file 2 of 2.*no such file.*belong in one folder"
    ):
        gguf.read(first)


def test_67_shard_opened_out_of_turn(tmp_path: Path) -> None:
    second = split_file(tmp_path, "b", 1, 2)
    with pytest.raises(GGUFError, match=r"split.no at byte \d+: .*open model-00001-of-00002\.gguf"):
        gguf.read(second)


@pytest.mark.parametrize("count", [0, 3])
def test_67_count_is_wrong(tmp_path: Path, count: int) -> None:
    path = split_file(tmp_path, "a", 0, count).rename(tmp_path / "model-00001-of-00002.gguf")
    with pytest.raises(GGUFError) as caught:
        gguf.read(path)
    assert caught.value.field == ("file name" if count else "split.count")


def test_67_split_keys_of_the_wrong_type_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00002.gguf"
    for builder, field in (
        (GGUFBuilder().kv("split.count", "string", "2"), "split.count"),
        (GGUFBuilder().kv("split.count", "u16", 2), "split.no"),
        (GGUFBuilder().kv("split.count", "u16", 2).kv("split.no", "bool", 0), "split.no"),
        (GGUFBuilder().array("split.count", "u16", [2]), "split.count"),
    ):
        path.write_bytes(builder.build())
        with pytest.raises(GGUFError) as caught:
            gguf.read(path)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("second", "field"),
    [
        ({"n": 0, "count": 2}, "split.no"),
        ({"n": 1, "count": 3}, "split.count"),
        ({"n": None, "count": 2}, "split.no"),
        ({"n": 1, "count": 2, "name": "a"}, "a"),
    ],
)
def test_68_shards_disagree(tmp_path: Path, second: dict, field: str) -> None:
    split_file(tmp_path, second.pop("name", "b"), **second).rename(tmp_path / "model-00002-of-00002.gguf")
    first = split_file(tmp_path, "a", 0, 2)
    with pytest.raises(GGUFError) as caught:
        gguf.read(first)
    assert caught.value.field == field
    assert str(caught.value.path).endswith("00002-of-00002.gguf")


def test_68_total_of_tensors_disagrees(tmp_path: Path) -> None:
    split_file(tmp_path, "b", 1, 2)
    first = split_file(tmp_path, "a", 0, 2, total=3)
    with pytest.raises(GGUFError, match=r"split.tensors.count at byte \d+: expected 2.*got 3"):
        gguf.read(first)


def test_69_prefix_is_only_a_name_whatever_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "%s [a-z] {0}"
    folder.mkdir()
    for n, name in enumerate("ab"):
        split_file(folder, name, n, 2)
    for shard in folder.iterdir():
        shard.rename(folder / shard.name.replace("model", "a-00007-of-00002.gguf %05d *\n"))
    (first,) = folder.glob("*00001-of-00002.gguf")
    monkeypatch.chdir(tmp_path)
    for path in (
        first,
        first.relative_to(tmp_path),
        Path("..") / tmp_path.name / first.relative_to(tmp_path),
    ):
        assert list(gguf.read(path).tensors) == ["a", "b"]


def test_69_prefix_inside_the_file_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    split_file(tmp_path / "elsewhere", "b", 1, 2)
    builder = GGUFBuilder().kv("split.no", "u16", 0).kv("split.count", "u16", 2)
    builder.kv("split.prefix", "string", str(tmp_path / "elsewhere" / "model"))
    path = tmp_path / "model-00001-of-00002.gguf"
    path.write_bytes(builder.build())
    with pytest.raises(GGUFError, match="no such file"):
        gguf.read(path)


def test_72_file_that_shrinks_can_be_loaded_without_a_map(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    data = new().tensor("t", (1024,), 0, 4096).build()
    path.write_bytes(data)
    file = gguf.read(path, mmap=False)
    path.write_bytes(data[:100])
    assert file.tensors["t"].blocks.tobytes() == data[-4096:]
    with pytest.raises(GGUFError):
        gguf.read(path)


def test_72_file_that_is_replaced_while_mapped_stays_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    data = new().tensor("t", (1024,), 0, 4096).build()
    path.write_bytes(data)
    file = gguf.read(path)
    gguf.write(path, {}, {})
    assert file.tensors["t"].blocks.tobytes() == data[-4096:]


def test_random_damage_to_a_shard_is_read_or_refused(tmp_path: Path) -> None:
    dice = random.Random(0)
    files = [split_file(tmp_path, name, n, 2) for n, name in enumerate("ab")]
    good = [path.read_bytes() for path in files]
    for _ in range(200):
        which = dice.randrange(2)
        files[which].write_bytes(mutated(good[which], good, dice))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gguf.GGUFWarning)
            try:
                assert len(gguf.read(files[0]).tensors) in (0, 1, 2)
            except GGUFError as error:
                assert "\n" not in str(error)
        files[which].write_bytes(good[which])


def test_errors_travel_between_processes() -> None:
    error = GGUFError("a.gguf", "n_kv", 16, "0 to 3", -1, "the file is damaged")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and (copy.field, copy.offset) == ("n_kv", 16)


@pytest.mark.parametrize(("field", "offset"), [("n_tensors", 8), ("n_kv", 16)])
def test_a_file_of_countless_tiny_keys_or_tensors_is_refused_at_once(
    tmp_path: Path, field: str, offset: int
) -> None:
    path = tmp_path / "many.gguf"
    path.write_bytes(new(**{field: 600_000}).build() + bytes(30 * 600_000))  # bytes for all of them
    start = time.process_time()
    with pytest.raises(GGUFError) as caught:
        gguf.read(path)
    assert time.process_time() - start < 0.5
    assert (caught.value.field, caught.value.offset) == (field, offset)
    assert (caught.value.expected, caught.value.got) == ("0 to 65536, llmlite's limit", 600_000)
