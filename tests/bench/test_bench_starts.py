"""The starts of a comparison: compiled ones apart from usual ones; the first one ever, with empty caches."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmlite.bench import backends, compare, entries, report
from llmlite.bench.inputs import open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError, WorkerProcess
from llmlite.bench.samples import Comparison, Measurement
from tests.support.comparisons import small


def test_a_start_that_compiled_is_kept_but_not_mixed_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    ask = WorkerProcess.ask

    def compiled_at_first(self: WorkerProcess, action: str, **arguments: Any) -> dict[str, Any]:
        answer = ask(self, action, **arguments)
        if action == "first_token":
            launched.append(self)
            answer["compiled"] = len(launched) == 1
        return answer

    monkeypatch.setattr(WorkerProcess, "ask", compiled_at_first)
    found = compare.run(
        Options(
            backends=("llmlite-eager",),
            types=("F16",),
            threads=1,
            blocks=1,
            prompts=(8,),
            depths=(4,),
            n_gen=2,
        ),
        progress=False,
    )
    phases = [m.phase for m in found.measurements]
    assert phases.count("load_cold") == 1 and phases.count("load") == 2
    assert any("compiled its kernels" in note for note in found.notes)


# --- the first start ever ---------------------------------------------------------------------


@pytest.fixture
def keeps_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the NumPy executor count as a backend that keeps work; return the cache folder."""
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    info = replace(backends.BACKENDS["llmlite-eager"], keeps_work=True)
    monkeypatch.setitem(backends.BACKENDS, "llmlite-eager", info)
    return tmp_path


def test_what_keeps_work_is_started_once_with_an_empty_cache(
    keeps_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    process = entries.Launcher.process

    def watched(self: Any, info: Any, variables: Any = None) -> WorkerProcess:
        if "LLMLITE_CACHE" in (variables or {}):
            assert set(variables.values()) == {variables["LLMLITE_CACHE"]}
            assert not any(Path(variables["LLMLITE_CACHE"]).iterdir())
            seen.append(dict(variables))
        return process(self, info, variables)

    monkeypatch.setattr(entries.Launcher, "process", watched)
    run = compare._Run(small(types=("F16", "Q4_0")), None, False)  # type: ignore[arg-type]
    run._prepare()
    run._first_ever(lambda _: None)
    [variables] = seen  # one type only
    assert set(variables) == set(entries.CACHES) and Path(variables["LLMLITE_CACHE"]).parent == keeps_work
    assert not Path(variables["LLMLITE_CACHE"]).exists()
    taken = run.result.measurements
    assert [m.phase for m in taken] == [f"{p}_ever" for p in ("start", "import", "load", "first_token")]
    assert {m.model_type for m in taken} == {"F16"} and run.result.notes == []


def test_a_first_start_that_fails_is_a_note(keeps_work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise BackendError("the disk is full")

    monkeypatch.setattr(entries.Launcher, "first_ever", fails)
    run = compare._Run(small(), None, False)  # type: ignore[arg-type]
    run._prepare()
    run._first_ever(lambda _: None)
    assert run.result.notes == ["the first start ever of llmlite-eager F16 wasn't measured: the disk is full"]


def test_time_is_kept_for_first_starts_and_none_is_begun_when_it_is_over(keeps_work: Path) -> None:
    run = compare._Run(small(budget_seconds=100.0), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run._reserve() == pytest.approx(10)
    run.begin -= 200
    run._first_ever(lambda _: None)
    assert run.result.notes == ["the first start ever of llmlite-eager F16 wasn't measured: time ran out"]
    assert compare._Run(small(quick=True).shortened(), None, False)._reserve() == 0  # type: ignore[arg-type]


def test_backends_that_keep_nothing_need_the_same_time_again() -> None:
    def taken(backend: str, phase: str, seconds: float) -> Measurement:
        ns = (int(seconds * 1e9),)
        return Measurement(
            run_id="r", env_hash="e", backend=backend, model_type="F16", phase=phase, samples_ns=ns
        )

    times = {"llmlite": 1.0, "torch-f32": 2.0, "ctranslate2": 3.0}
    found = Comparison(environment={})
    found.measurements = [taken(name, "load", seconds) for name, seconds in times.items()]
    assert report.start_table(found)[2] == []
    found.measurements += [taken("llmlite", "load_ever", 20.0), taken("llmlite", "first_token_ever", 0.5)]
    assert report.start_table(found)[2] == [
        ["llmlite F16", "1.0", "20.5"],
        ["PyTorch float32 F16", "2.0", "the same"],
        ["CTranslate2 int8 F16", "3.0", "-"],
    ]
    assert report.start_table(found)[0] in str(found)


def test_a_start_that_compiled_code_which_is_kept_is_a_cold_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"ns": 1, "about": {}, "compiled": True, "converted": False}
    [file] = open_models("tales", ("F16",))
    launcher = entries.Launcher(n_threads=1, n_ctx=64, timeout=1, prompt=[1, 2], lengths=[2])
    for anew, ending in ((True, "_cold"), (False, "")):

        class Fake:
            start_ns = 1

            def ask(self, action: str, **_: Any) -> dict[str, Any]:
                return {**answers, "compiled": action == "compile", "anew": anew}  # noqa: B023 - used at once

            def close(self) -> None: ...

        monkeypatch.setattr(entries.Launcher, "process", lambda *_, made=Fake: made())
        entry = entries.Entry(backends.BACKENDS["torch-compile"], file)
        _, times = launcher.launch(entry, ExitStack())
        assert f"compile{ending}" in times and f"load{ending}" in times and len(times) == 5
