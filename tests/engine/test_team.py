"""Threads that take their work in pieces: every piece once, whoever comes, and the same bits."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

numba = pytest.importorskip("numba")

import llmlite as ll  # noqa: E402
from llmlite.engine import team as teams  # noqa: E402
from llmlite.engine.contract import MAX_PIECES  # noqa: E402
from llmlite.engine.kernels.team import ACTIVE, PIECE_BITS, take  # noqa: E402
from llmlite.engine.plan import PIECE_BYTES, Plan, Share, pieces_of  # noqa: E402
from llmlite.engine.planned import _waits  # noqa: E402
from llmlite.engine.recorder import Recorder  # noqa: E402
from llmlite.engine.recording import Buffer  # noqa: E402
from llmlite.engine.simd import OPTIONS, i64, inline, load_i64, store  # noqa: E402
from llmlite.quants.tensor import QuantTensor  # noqa: E402

rng = np.random.default_rng(11)


@pytest.fixture(scope="module")
def take_all():
    """(word, stage, n, out): take pieces until none is left; out[number] counts how often it was taken."""

    @inline
    def body(word, stage, n, out):
        number = take(word, stage, n)
        while number >= 0:
            store(out + number * 8, load_i64(out + number * 8) + 1)
            number = take(word, stage, n)

    made = numba.cfunc(numba.void(i64, i64, i64, i64), **OPTIONS)(body.py_func)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(made.address)
    call.kept = made
    return call


def test_threads_together_take_every_piece_once(take_all) -> None:
    n = (1 << PIECE_BITS) - 1
    word, counts = np.zeros(1, np.int64), np.zeros((4, n), np.int64)
    threads = [
        threading.Thread(target=take_all, args=(word.ctypes.data, 3, n, row.ctypes.data)) for row in counts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counts.sum(axis=0) == 1).all()
    assert word[0] == (3 << PIECE_BITS) + n


def test_a_thread_that_comes_too_late_takes_nothing(take_all) -> None:
    word, counts = np.array([(8 << PIECE_BITS) + 1], np.int64), np.zeros(5, np.int64)
    take_all(word.ctypes.data, 7, 5, counts.ctypes.data)  # of a stage before the one that the word counts
    assert counts.sum() == 0 and word[0] == (8 << PIECE_BITS) + 1
    take_all(word.ctypes.data, 8, 5, counts.ctypes.data)
    assert counts.tolist() == [0, 1, 1, 1, 1]
    take_all(word.ctypes.data, 9, 5, counts.ctypes.data)  # all pieces of the next stage
    assert counts.tolist() == [1, 2, 2, 2, 2]


def chain(recorder: Recorder, w: QuantTensor, x: Buffer) -> Buffer:
    """Products and sums whose stages depend on each other."""
    for _ in range(4):
        y = recorder.matmul(w, recorder.rms_norm(x, None, 1e-5, x.width))
        x = recorder.add(recorder.scale(y, 0.5), x)
    return x


def plan_of(n_threads: int, x: np.ndarray, w: QuantTensor) -> Plan:
    recorder = Recorder(max_tokens=len(x), max_outputs=1, n_threads=n_threads)
    return Plan(recorder, chain(recorder, w, recorder.embed(QuantTensor.quantize(x, "F32"), None)))


def run(plan: Plan, n_tokens: int, clock: np.ndarray | None = None) -> np.ndarray:
    with plan.lock:
        return plan.run([Share(range(n_tokens))], clock=clock).copy()


@pytest.mark.parametrize("n_tokens", [1, 20])
def test_bits_do_not_depend_on_who_took_which_piece(n_tokens: int) -> None:
    w = QuantTensor.quantize(rng.standard_normal((512, 512)).astype(np.float32), "Q8_0", "w")
    x = rng.standard_normal((n_tokens, 512)).astype(np.float32)
    want = run(plan_of(1, x, w), n_tokens).tobytes()
    for n_threads in (2, 3, 7):  # more than there are cores: some are always late
        plan = plan_of(n_threads, x, w)
        assert all(run(plan, n_tokens).tobytes() == want for _ in range(30))


def test_the_leader_finishes_a_job_that_no_worker_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    w = QuantTensor.quantize(rng.standard_normal((256, 256)).astype(np.float32), "Q8_0", "w")
    x = rng.standard_normal((20, 256)).astype(np.float32)
    alone = teams.Team.__new__(teams.Team)
    monkeypatch.setattr(teams.Team, "_start_workers", lambda self, n: n)  # as if all were put aside
    alone.__init__(3)
    monkeypatch.setattr("llmlite.engine.plan.team", lambda n_threads: alone)
    plan = plan_of(3, x, w)
    clock = np.zeros((len(plan.ops) + 1, 4, 2), np.int64)
    got = [run(plan, 20), run(plan, 20, clock), run(plan, 20)]
    monkeypatch.undo()
    want = run(plan_of(1, x, w), 20)
    assert all(each.tobytes() == want.tobytes() for each in got)
    assert (clock[1:, 1] > 0).all() and not clock[:, 2:].any(), "only the leader took part"


def test_workers_leave_a_plan_before_its_run_returns() -> None:
    w = QuantTensor.quantize(rng.standard_normal((256, 256)).astype(np.float32), "Q8_0", "w")
    x = rng.standard_normal((20, 256)).astype(np.float32)
    plan, own = plan_of(3, x, w), teams.team(3)
    for _ in range(50):
        run(plan, 20)
        words = [own._base + (8 + 4 * rank) * teams.LINE + ACTIVE for rank in range(3)]
        assert [ctypes.c_int64.from_address(word).value for word in words] == [0, 0, 0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins a process to a core")
def test_threads_on_one_core_finish_with_the_same_bits() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import llmlite as ll\n"
        "one, three = (ll.load('tales', n_threads=n) for n in (1, 3))\n"
        "texts = [m.generate('Once', max_tokens=20, temperature=0) for m in (one, three)]\n"
        "assert texts[0] == texts[1]; print('same')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.stdout == "same\n", done.stderr[-2000:]


def test_pieces_are_many_where_there_is_much_to_read() -> None:
    recorder = Recorder(max_tokens=1, max_outputs=1, n_threads=2)
    w = QuantTensor.quantize(np.ones((4096, 256), np.float32), "Q8_0", "w")
    recorder.matmul(w, recorder.rms_norm(Buffer(256), None, 1e-5, 256))
    product, norm = recorder.ops[-1], recorder.ops[0]
    assert pieces_of(product, 2, 1) == w.n_bytes // (2 * PIECE_BYTES) == 4
    assert pieces_of(product, 1, 1) == MAX_PIECES
    assert pieces_of(norm, 2, 1) == 1
    assert pieces_of(norm, 2, 256) > 1


def test_waiting_is_what_is_left_of_an_operation_after_a_threads_last_piece() -> None:
    # Two threads, two operations, over at 100 and 150; the second thread slept through the second one.
    times = np.array([[10, 0, 0], [100, 100, 40], [150, 150, 170]])
    assert _waits(times).tolist() == [(0 + 60) / 2, (0 + 50) / 2]
    times[2, 2] = 0  # or it wrote nothing
    assert _waits(times).tolist() == [30, 25]


def test_a_profile_says_how_long_threads_waited() -> None:
    import llmlite as ll

    rows = ll.load("tales", n_threads=2, executor="planned").executor.profile(repeat=3)
    assert all(0 <= row["waiting"] <= row["nanoseconds"] for row in rows)


def test_a_thread_that_is_alone_does_not_wait() -> None:
    rows = ll.load("tales", n_threads=1).executor.profile(n_tokens=2)
    # Between its last piece and the operation's end it only reads the clock.
    assert sum(row["waiting"] for row in rows) < sum(row["nanoseconds"] for row in rows) / 2
