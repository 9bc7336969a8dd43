"""The shipped samples: they agree, and one command takes all of them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmlite.bench import consistency
from llmlite.bench.taking import Run, SampleFile, Taking
from llmlite.errors import LlmliteError
from tests.support.synthetic import synthetic_comparison
from tools import samples


def test_the_shipped_samples_do_not_contradict_each_other() -> None:
    found = samples.taking.disagreements({})
    assert not found, "\n".join(found)


def test_every_shipped_sample_is_an_entry_of_the_one_table() -> None:
    assert sorted(path.name for path in samples.TARGET.iterdir()) == sorted(s.file for s in samples.SAMPLES)
    assert {name for s in samples.SAMPLES for name in s.runs} == {run.name for run in samples.RUNS}
    assert sum(run.minutes for run in samples.RUNS) <= 35
    assert all(sample.name in samples.listed() for sample in samples.SAMPLES)


def test_samples_that_show_speeds_are_compared_on_the_same_backend_model_and_type() -> None:
    by_key: dict[Any, set[str]] = {}
    for sample in samples.SAMPLES:
        for figure in sample.figures(samples.TARGET / sample.file):
            by_key.setdefault(figure.key, set()).add(figure.file)
    shared = {key: files for key, files in by_key.items() if len(files) > 1}
    assert shared["torch-f32", "tales", "", "decode"] >= {"half_the_bits.json", "comparison-two-cores.jsonl"}
    assert shared["llmlite", "tales", "Q4_0", "decode"] >= {"sizes.json", "claims.json"}
    assert shared["llmlite", "smollm2", "Q8_0", "decode"] == {"sizes.json", "comparison-smollm2.jsonl"}
    assert shared["llmlite", "tales", "F16", "memory"] >= {"memory-timeline.jsonl", "half_the_bits.json"}


def test_a_contradiction_names_both_numbers_and_files() -> None:
    def of(file: str, value: float, backend: str = "torch-f32", type_name: str = "F16") -> Any:
        return consistency.sample_figure(file, backend, "tales", type_name, "decode", value)

    assert consistency.disagreements([of("a.json", 776), of("b.jsonl", 333, type_name="F32")]) == [
        "PyTorch float32 on tales: a.json has 776 tokens/s, b.jsonl has 333 tokens/s"
    ]
    assert not consistency.disagreements([of("a.json", 100), of("b.json", 124), of("c.json", 7, "llmlite")])
    assert consistency.disagreements([of("a.json", 100), of("b.json", 126)])


def test_a_comparison_of_some_types_is_as_if_only_these_had_been_compared() -> None:
    whole = synthetic_comparison()
    some = whole.of_types(("Q4_0",))
    assert {entry[1] for entry in whole.entries()} > {"Q4_0"} == {entry[1] for entry in some.entries()}
    assert {m["model_type"] for m in some.models} <= {"Q4_0"} and some.environment == whole.environment


# --- taking them ------------------------------------------------------------------------------


class Kitchen:
    """Two runs that count how often they are measured, and three samples made from them."""

    def __init__(self, folder: Path) -> None:
        self.measured: list[str] = []
        self.said: list[str] = []
        self.broken = ""
        (folder / "target").mkdir()
        self.taking = Taking(
            runs=[self._run("a"), self._run("b")],
            samples=[self._sample("x", "a"), self._sample("y", "b"), self._sample("z", "a", "b")],
            kept=folder / "kept",
            target=folder / "target",
            say=self.said.append,
        )

    def _run(self, name: str) -> Run:
        def measure(_say: Any) -> str:
            self.measured.append(name)
            if self.broken == name:
                raise LlmliteError("no luck")
            return name.upper()

        return Run(
            name=name,
            minutes=1,
            measure=measure,
            save=lambda found, folder: (folder / "found").write_text(found) and None,
            load=lambda folder: (folder / "found").read_text(),
        )

    def _sample(self, name: str, *runs: str) -> SampleFile:
        def write(found: Mapping[str, Any], path: Path) -> None:
            path.write_text("".join(found[run] for run in runs))

        return SampleFile(name=name, file=f"{name}.txt", runs=runs, write=write)

    def take(self, *names: str, resume: bool = False) -> dict[str, Path]:
        chosen = self.taking.choose(names)
        return self.taking.write(chosen, self.taking.measure(chosen, resume=resume))


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def test_what_several_samples_need_is_measured_once(kitchen: Kitchen) -> None:
    written = kitchen.take()
    assert kitchen.measured == ["a", "b"] and written["z"].read_text() == "AB"
    assert "1 of 2: a; about 2 min left" in kitchen.said and "2 of 2: b; about 1 min left" in kitchen.said
    assert not list(kitchen.taking.target.iterdir())
    kitchen.taking.install(written)
    assert sorted(path.name for path in kitchen.taking.target.iterdir()) == ["x.txt", "y.txt", "z.txt"]


def test_only_what_was_chosen_is_measured(kitchen: Kitchen) -> None:
    assert list(kitchen.take("y")) == ["y"] and kitchen.measured == ["b"]
    with pytest.raises(LlmliteError, match="no sample 'nope'; there are: x, y, z"):
        kitchen.take("nope")


def test_after_a_failure_the_rest_is_kept_and_resuming_measures_only_what_is_left(kitchen: Kitchen) -> None:
    kitchen.broken = "a"
    assert list(kitchen.take()) == ["y"] and "a failed: no luck" in kitchen.said
    kitchen.broken = ""
    assert list(kitchen.take(resume=True)) == ["x", "y", "z"]
    assert kitchen.measured == ["a", "b", "a"]
    assert set(kitchen.taking.canaries) == {"a", "b"}


def test_a_missing_peer_is_named_before_anything_is_measured(kitchen: Kitchen, tmp_path: Path) -> None:
    object.__setattr__(kitchen.taking.runs[1], "models", (str(tmp_path / "missing.gguf"),))
    with pytest.raises(LlmliteError, match=r"nothing was measured: b needs the model .*missing\.gguf"):
        kitchen.take()
    assert not kitchen.measured
    assert list(kitchen.take("x")) == ["x"]


def test_the_machine_counts_as_quiet_if_no_canary_was_a_quarter_slower_than_another() -> None:
    taking = Taking(runs=(), samples=(), kept=Path(), target=Path(), say=print)
    assert not taking.is_quiet()
    taking.canaries = {"a": (100, 110), "b": (124, 100)}
    assert taking.is_quiet()
    taking.canaries["c"] = (100, 126)
    assert not taking.is_quiet()
