"""`llmlite bench --profile`: where a step's time goes, and what threads wait."""

from __future__ import annotations

import json

import pytest

from llmlite.bench.profiling import HEADINGS, StepProfile, profile
from llmlite.cli import main
from llmlite.errors import LlmliteError

ROWS = [
    {"operation": "embed_f16", "label": "a", "type": "F16", "nanoseconds": 2e6, "waiting": 1e6, "bytes": 0,
     "operations": 0},
    {"operation": "matvec_f16", "label": "b", "type": "F16", "nanoseconds": 3e6, "waiting": 0.5e6,
     "bytes": 6e6, "operations": 12e6},
    {"operation": "matvec_f16", "label": "c", "type": "F16", "nanoseconds": 1e6, "waiting": 0.5e6,
     "bytes": 2e6, "operations": 4e6},
]  # fmt: skip


def step(n_threads: int = 2, n_tokens: int = 1) -> StepProfile:
    return StepProfile(
        model="m", executor="e", n_threads=n_threads, n_tokens=n_tokens, depth=7, rows=[dict(r) for r in ROWS]
    )


def test_operations_of_one_kind_are_added_up_and_the_longest_comes_first() -> None:
    assert step().table() == [
        HEADINGS,
        ("matvec_f16", "F16", "2", "4.000", "66.7%", "25.0%", "2.0", "4"),
        ("embed_f16", "F16", "1", "2.000", "33.3%", "50.0%", "-", "-"),
    ]


def test_the_headline_says_how_long_threads_wait_and_take_to_wake_up() -> None:
    assert step().headline() == (
        "1 token after 7: 6.000 ms on 2 threads; threads wait for 33.3% of this time (2.000 ms), 1.000 ms "
        "of it in the first operation, until all are awake"
    )
    assert step(1, 5).headline() == "5 tokens after 7: 6.000 ms on 1 thread"
    assert step(1).table()[1][5] == "-"  # a thread that is alone waits for nobody


def test_a_model_is_profiled_in_steps_that_its_plans_take() -> None:
    found = list(profile("tales", prompts=(600, 300), gens=(32,), depths=(0, 3), n_threads=1, repeat=1))
    assert [(s.n_tokens, s.depth) for s in found] == [(256, 0), (1, 0), (256, 3), (1, 3)]
    assert all(s.nanoseconds > 0 and s.waiting >= s.waking >= 0 for s in found)
    with pytest.raises(LlmliteError, match="nothing to profile"):
        next(profile("tales", prompts=(0,), gens=(0,)))


def test_the_command_prints_one_object_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bench", "tales", "--profile", "-p", "0", "-n", "1", "-t", "1", "-r", "1", "-o", "jsonl"]) == 0
    )
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["kind"] == "profile" and record["n_tokens"] == 1 and record["rows"]
    assert main(["bench", "tales", "--profile", "-p", "0", "-n", "1", "-t", "1", "-r", "1"]) == 0
    assert "operation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [(["-b", "llamacpp"], "only time llmlite"), (["-o", "csv"], "not csv"), (["-t", "0"], "at least 1")],
)
def test_what_cannot_be_profiled_is_refused(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "tales", "--profile", *more]) == 2
    assert said in capsys.readouterr().err


def test_the_command_takes_lists_and_ranges_and_has_lengths_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def steps(*more: str) -> list[tuple[int, int]]:
        assert main(["bench", "tales", "--profile", "-t", "1", "-r", "1", "-o", "json", *more]) == 0
        return [(each["n_tokens"], each["depth"]) for each in json.loads(capsys.readouterr().out)]

    assert steps("-p", "4-8*2", "-n", "0", "-d", "0,3") == [(4, 0), (8, 0), (4, 3), (8, 3)]
    assert steps() == [(256, 0), (1, 0)]
