"""What fits the time: blocks first get fewer, then shorter, then entries leave; five blocks stay."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from llmlite.bench import environment
from llmlite.bench.backends import by_name
from llmlite.bench.entries import Entry, Launcher
from llmlite.bench.inputs import ModelFile
from llmlite.bench.planning import SHORTEST, Turn, plan
from llmlite.bench.process import BackendError

TURNS = {
    "fast": Turn(prefill=1, step=0.01),
    "slow": Turn(prefill=2, step=0.1),
    "snail": Turn(prefill=40, step=1),
}
ESSENTIAL = ("fast", "snail")


def test_without_a_limit_everything_is_done() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=None, n_blocks=10, n_gen=128)
    assert (found.n_blocks, found.n_gen, found.left_out) == (10, 128, ())
    assert found.seconds_per_block == pytest.approx(43 + 1.11 * 128)


def test_blocks_get_fewer_before_anything_else_changes() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=6 * 190, n_blocks=10, n_gen=128)
    assert (found.n_blocks, found.n_gen, found.left_out) == (6, 128, ())


def test_writing_gets_shorter_before_anybody_leaves() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=5 * 80, n_blocks=10, n_gen=128)
    assert (found.n_blocks, found.n_gen, found.left_out) == (5, 32, ())


def test_those_that_are_not_essential_leave_first_then_the_slowest() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=5 * 58, n_blocks=10, n_gen=128)
    assert found.left_out == ("slow",) and found.n_gen == SHORTEST and found.n_blocks == 5
    found = plan(TURNS, ESSENTIAL, seconds=20, n_blocks=10, n_gen=128)
    assert found.left_out == ("slow", "snail") and found.n_blocks >= 5


def test_the_last_one_stays_and_one_block_is_tried() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=-3, n_blocks=10, n_gen=128)
    assert found.left_out == ("slow", "snail") and found.n_blocks == 1 and found.n_gen == SHORTEST


def test_who_asks_for_two_blocks_gets_two_from_everybody() -> None:
    found = plan(TURNS, ESSENTIAL, seconds=2 * 190, n_blocks=2, n_gen=128)
    assert found.n_blocks == 2 and found.left_out == ()


def test_nobody_to_compare_is_no_error() -> None:
    assert plan({}, (), seconds=10, n_blocks=5, n_gen=8).left_out == ()


def test_what_is_done_once_counts_and_goes_with_its_entry() -> None:
    turns = {"quick": Turn(prefill=1, step=0.0), "loads long": Turn(prefill=1, step=0.0, once=100)}
    found = plan(turns, (), seconds=50, n_blocks=10, n_gen=16)
    assert found.left_out == ("loads long",) and found.n_blocks == 10
    assert plan(turns, (), seconds=120, n_blocks=10, n_gen=16).n_blocks == 10
    assert plan(turns, (), seconds=112, n_blocks=10, n_gen=16).n_blocks == 6


def test_a_backend_that_memory_has_no_room_for_is_refused_and_one_that_fits_once_is_not_started_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = ModelFile(path=Path("m.gguf"), model_type="Q8_0", n_ctx=8, n_params=10**9, n_bytes=10**9)
    launcher = Launcher(n_threads=2, n_ctx=8, timeout=1, prompt=[1], lengths=[1])
    started: list[str] = []
    monkeypatch.setattr(Launcher, "choose_policy", lambda *_: started.append("twice") or (None, {}))
    monkeypatch.setattr(Launcher, "launch", lambda *_: started.append("once") or (None, {}))
    for gigabytes in (3, 5, 9):  # 4 bytes a weight
        monkeypatch.setattr(environment, "available_memory", lambda n=gigabytes: n * 10**9)
        entry = Entry(by_name("torch-f32"), file)
        if gigabytes == 3:
            with pytest.raises(BackendError, match=r"may need 4\.0 GB of memory, but 3\.0 GB are available"):
                launcher.start(entry, ExitStack())
        else:
            launcher.start(entry, ExitStack())
    assert started == ["once", "twice"]


def test_two_backends_stay_even_if_fewer_blocks_fit() -> None:
    turns = {"a F16": TURNS["fast"], "a Q8_0": TURNS["slow"], "b F16": TURNS["snail"]}
    backends = {key: key[0] for key in turns}
    found = plan(turns, (), seconds=1, n_blocks=10, n_gen=16, backends=backends, least_backends=2)
    assert found.left_out == ("a Q8_0",) and found.n_blocks == 1
