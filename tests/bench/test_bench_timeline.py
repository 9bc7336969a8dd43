"""The memory of a process over its life."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llmlite import resources
from llmlite.bench import timeline
from llmlite.bench.backends import BACKENDS

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells another process's memory")


@pytest.fixture(scope="module")
def recorded() -> timeline.Timeline:
    return timeline.record("llmlite", resources.model_path("tales"), list(range(100, 140)), n_gen=8)


@LINUX
def test_a_process_is_watched_through_all_its_stages(recorded: timeline.Timeline) -> None:
    assert [name for name, _ in recorded.stages] == list(timeline.STAGES)
    assert recorded.seconds == sorted(recorded.seconds) and len(recorded.seconds) > 20
    assert len(recorded.private) == len(recorded.file_backed) == len(recorded.seconds)


@LINUX
def test_loading_maps_the_file_instead_of_copying_it(recorded: timeline.Timeline) -> None:
    size = resources.model_path("tales").stat().st_size
    before, after = recorded.at_end_of("import"), recorded.at_end_of("done")
    assert after[1] - before[1] > 0.9 * size  # the weights are mapped
    with pytest.raises(KeyError):
        recorded.at_end_of("nosuch")


@LINUX
def test_it_is_the_same_after_saving(recorded: timeline.Timeline, tmp_path: Path) -> None:
    timeline.save([recorded, recorded], tmp_path / "t.jsonl")
    assert timeline.load(tmp_path / "t.jsonl") == [recorded, recorded]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        '{"schema": 1}',
        '{"schema": 9, "backend": "x"}',
        "not json",
        '{"schema": 1, "stages": 3}',
    ],
)
def test_another_file_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1: not a memory timeline"):
        timeline.load(path)


def test_the_shipped_timelines_can_be_read_and_name_no_machine_of_ours() -> None:
    path = resources.data_path("samples/memory-timeline.jsonl")
    found = timeline.load(path)
    assert {each.backend for each in found} <= set(BACKENDS) and len(found) >= 3
    for line in path.read_text().splitlines():
        assert "/" not in json.loads(line)["machine"]
