"""A comparison from end to end on the bundled model, and the worker's protocol."""

from __future__ import annotations

import json
import platform
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmlite.bench import agreement, backends, checking, compare
from llmlite.bench.inputs import open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError
from llmlite.bench.samples import Comparison
from llmlite.cli import main
from tests.support.comparisons import small

SMALL = Options(
    backends=("llmlite-eager",),
    types=("F16", "Q4_0"),
    threads=1,
    blocks=2,
    prompts=(8, 16),
    depths=(4,),
    n_gen=3,
    start_runs=1,
)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare.run(SMALL, progress=False)


def test_what_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "EXACT", -1.0)
    found = compare.run(small(), progress=False)
    assert [record["agrees"] for record in found.agreement] == [False]
    assert found.measurements == [] and found.memory == []
    assert "NO, not timed" in str(found)


# --- end to end -------------------------------------------------------------------------------


def test_every_entry_agrees_and_every_block_has_every_entry(comparison: Comparison) -> None:
    assert [(r["backend"], r["model_type"], r["agrees"]) for r in comparison.agreement] == [
        ("llmlite-eager", "F16", True),
        ("llmlite-eager", "Q4_0", True),
    ]
    turns = {(m.block, m.model_type, m.phase, m.n_prompt) for m in comparison.measurements if m.block >= 0}
    assert turns == {
        (block, model_type, phase, n_prompt)
        for block in (0, 1)
        for model_type in ("F16", "Q4_0")
        for phase, n_prompt in (("prefill", 8), ("prefill", 16), ("decode", 0))
    }


def test_start_up_is_measured_in_every_process(comparison: Comparison) -> None:
    for phase in ("start", "import", "load", "first_token"):
        runs = [m for m in comparison.measurements if m.phase == phase and m.model_type == "F16"]
        assert len(runs) == 2, phase  # the living process, and one fresh one


def test_the_number_of_threads_is_the_one_that_ran(comparison: Comparison) -> None:
    assert {m.n_threads for m in comparison.measurements} == {1}


def test_quantization_costs_quality_and_saves_bytes(comparison: Comparison) -> None:
    exact, coarse = comparison.agreement
    assert exact["kl"] < 1e-6 < coarse["kl"] and coarse["same_file_kl"] < 1e-6
    f16, q4 = comparison.models
    assert q4["model_size"] < 0.5 * f16["model_size"] and f16["model_n_params"] == q4["model_n_params"]


def test_memory_is_measured_after_loading_and_after_writing(comparison: Comparison) -> None:
    stages = [(r["model_type"], r["stage"]) for r in comparison.memory]
    assert stages == [("F16", "load"), ("F16", "decode"), ("Q4_0", "load"), ("Q4_0", "decode")]
    assert all(r["peak_bytes"] > 10**7 for r in comparison.memory)


def test_no_record_names_a_folder_of_this_machine(comparison: Comparison) -> None:
    text = json.dumps(comparison.records())
    for folder in {str(Path.home()), str(Path.cwd()), str(Path(__file__).parent)} - {"/"}:
        assert folder not in text


def test_the_records_survive_a_file(comparison: Comparison, tmp_path: Path) -> None:
    assert Comparison.load(comparison.save(tmp_path / "c.jsonl")) == comparison


def test_a_backend_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    reason = backends.BACKENDS["torch-f32"].unavailable()
    assert reason.startswith(
        "not installed: pip install 'llmlite-kit[torch]', or make a separate environment"
    )


def test_every_backend_has_a_colour_for_figures() -> None:
    plots = pytest.importorskip("llmlite.plots")
    assert set(plots.BACKEND_COLOURS) == set(backends.BACKENDS)
    assert set(plots.BACKEND_COLOURS.values()) <= set(plots.COLOURS)


def test_pairs_choose_each_backend_with_its_file() -> None:
    best, small_file = open_models("tales", ("F16", "Q4_0"))
    run = compare._Run(
        small(backends=(), types=None),
        None,  # type: ignore[arg-type]
        False,
        pairs=[("llmlite-eager", small_file), ("torch-f32", best)],
    )
    run._prepare()
    assert [entry.label for entry in run.entries] == ["llmlite-eager Q4_0", "torch-f32 F16"]
    assert run.exam is None and all(run._is_named(entry) for entry in run.entries)
    assert [file.model_type for file in run.files] == ["Q4_0", "F16"]


def test_llama_cpp_is_compared_by_default_from_its_wheel_and_without_it_the_table_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: tuple[str, ...] = ()
    monkeypatch.setattr(backends.BackendInfo, "unavailable", lambda info: "gone" if info.name in lost else "")
    run = compare._Run(small(backends=()), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert [entry.info.name for entry in run.entries] == ["llmlite", "torch-f32", "torch-bf16", "xllamacpp"]
    lost = ("xllamacpp",)
    run = compare._Run(small(backends=()), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run.result.skipped == [{"backend": "xllamacpp", "reason": "gone"}]
    assert backends.wheel_title(platform.machine()) in str(run.result)


def test_the_name_of_llama_cpps_wheel_tells_its_build_on_processors_that_have_it() -> None:
    titles = [backends.wheel_title(machine) for machine in ("x86_64", "AMD64", "arm64", "aarch64", "")]
    assert titles == ["llama.cpp wheel (AVX2)"] * 2 + ["llama.cpp wheel"] * 3


def test_the_time_budget_ends_the_blocks_and_says_so() -> None:
    found = compare.run(small(blocks=50, budget_seconds=0.001), progress=False)
    assert {m.block for m in found.measurements} == {-1, 0}
    assert any("1 of 50 blocks" in note for note in found.notes)


def test_lengths_that_do_not_fit_the_context_are_left_out() -> None:
    run = compare._Run(Options(prompts=(64, 10**6), depths=(1, 10**6), n_gen=16), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run.prompts == (64,) and run.depths == (1,)
    assert "decode after 1000000 tokens isn't measured: the context has 1024" in run.result.notes
    assert "prefill of 1000000 tokens isn't measured: the context has 1024" in run.result.notes
    run = compare._Run(Options(n_gen=10**6), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run.n_gen == 1023
    assert "1023 of 1000000 tokens are generated: the context has 1024" in run.result.notes


@pytest.mark.parametrize("resets", [True, False])
def test_a_peak_that_includes_loading_is_said(resets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def ask(self, what: str, **_more: Any) -> dict[str, Any]:
            return {"ok": True, "reset": resets} if what == "reset_peak" else {"ok": True}

        def close(self) -> None: ...

    run = compare._Run(Options(prompts=(8,), depths=(4,), n_gen=3), None, False)  # type: ignore[arg-type]
    run._prepare()
    run.launcher = SimpleNamespace(launch=lambda *_args, **_more: (Worker(), {}))  # type: ignore[assignment]
    monkeypatch.setattr(run, "_keep_start", lambda *_args: None)
    run._memory_run(SimpleNamespace(key={"backend": "llmlite", "model_type": "F16"}), 0)  # type: ignore[arg-type]
    assert any("includes loading" in note for note in run.result.notes) is not resets


def test_the_usual_depths_are_those_that_the_context_has_room_for() -> None:
    run = compare._Run(Options(), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run.depths == (0, 512) and any("after 2048 tokens" in note for note in run.result.notes)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"backends": ("abacus",)}, "no backend 'abacus'"),
        ({"blocks": 0}, "at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"types": ()}, "types"),
    ],
)
def test_options_that_make_no_sense_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**bad)


def test_quick_keeps_what_was_asked_for() -> None:
    quick = Options(quick=True, blocks=7).shortened()
    assert quick.blocks == 7 and quick.n_gen < Options().n_gen and quick.budget_seconds


def test_a_backend_that_fails_while_it_is_timed_leaves_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(run: Any, entry: Any, block: int) -> None:
        raise BackendError("out of memory")

    monkeypatch.setattr(compare._Run, "_turn", fail)
    found = compare.run(small(), progress=False)
    assert found.measurements == [] and found.skipped[0]["reason"] == "out of memory"


# --- the command ------------------------------------------------------------------------------


def test_the_command_writes_samples_figures_and_descriptions(
    comparison: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(compare, "run", lambda options, **_: comparison)
    assert main(["compare", "--quick", "-o", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {
        "comparison.jsonl",
        "comparison-light.png",
        "comparison-dark.png",
        "comparison-dark.alt.txt",
    }
    assert "agrees" in capsys.readouterr().out


def test_a_comparison_that_nothing_was_timed_in_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    comparison: Comparison,
    tmp_path: Path,
) -> None:
    nothing = Comparison(environment=comparison.environment)
    nothing.skipped.append({"backend": "llmlite", "model_type": "F32", "reason": "an encoder"})
    monkeypatch.setattr(compare, "run", lambda options, **_: nothing)
    monkeypatch.setattr("llmlite.cli.compare.figures", lambda *_: [])
    assert main(["compare", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "llmlite: no backend ran; the table says why\n"


def test_a_wrong_backend_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--backends", "abacus"]) == 2
    assert capsys.readouterr().err.startswith("llmlite: no backend 'abacus'; there are: llmlite")


# --- lengths, time and conditions -------------------------------------------------------------


def test_lengths_come_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, comparison: Comparison, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(compare, "run", lambda options, **_: asked.append(options) or comparison)
    monkeypatch.setattr("llmlite.cli.compare.figures", lambda *_: [])
    words = ["--prompts", "8,16", "--depths", "4,2048", "--gen", "3", "--time", "77", "--backends", "all"]
    assert main(["compare", *words, "-o", str(tmp_path)]) == 0
    [options] = asked
    assert (options.prompts, options.depths, options.n_gen) == ((8, 16), (4, 2048), 3)
    assert options.budget_seconds == 77 and options.backends == tuple(backends.BACKENDS)


def test_every_entry_says_how_it_ran(comparison: Comparison) -> None:
    assert [(r["backend"], r["model_type"], r["type_k"]) for r in comparison.backends] == [
        ("llmlite-eager", "F16", "f32"),
        ("llmlite-eager", "Q4_0", "f32"),
    ]
    assert "Conditions: " in str(comparison)


def test_what_cannot_be_started_in_time_is_left_out_with_the_reason() -> None:
    found = compare.run(small(types=("F16", "Q4_0"), budget_seconds=0.001), progress=False)
    [left_out] = found.skipped
    assert left_out["model_type"] == "Q4_0"
    assert left_out["reason"] == "not started: more than 60% of the 0.001 s had passed"  # it was named
    assert {m.model_type for m in found.measurements} == {"F16"}


def test_two_backends_are_compared_whatever_the_budget() -> None:
    """A slow machine would see a table of one row otherwise."""
    backends = ("llmlite-eager", "llmlite")
    found = compare.run(small(backends=backends, types=("F16", "Q4_0"), budget_seconds=0.001), progress=False)
    assert {(m.backend, m.model_type) for m in found.measurements} == {(name, "F16") for name in backends}
    assert [each["model_type"] for each in found.skipped] == ["Q4_0", "Q4_0"]


def test_an_openmp_backend_runs_the_better_of_both_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import ExitStack

    from llmlite.bench.entries import POLICIES, Entry, Launcher

    class Fake:
        start_ns = 1

        def __init__(self, passive: bool) -> None:
            self.passive, self.closed = passive, False

        def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
            if action == "decode":
                return {"samples_ns": [10 if self.passive else 30]}
            about = {"n_threads": 2, "type_k": "f32"}
            return {"ns": 1, "about": about, "compiled": False, "converted": False}

        def close(self) -> None:
            self.closed = True

    made: list[Fake] = []

    def process(self: Launcher, info: Any, variables: Any = None) -> Fake:
        made.append(Fake(variables == POLICIES["passive"]))
        return made[-1]

    monkeypatch.setattr(Launcher, "process", process)
    launcher = Launcher(n_threads=2, n_ctx=64, timeout=1, prompt=[1, 2], lengths=[2])
    [file] = open_models("tales", ("F16",))
    entry = Entry(backends.BACKENDS["llamacpp"], file)
    launcher.start(entry, ExitStack())
    assert entry.about["wait_policy"] == "passive" and launcher.policies == {"llamacpp": "passive"}
    assert [worker.closed for worker in made] == [True, False] and entry.worker is made[1]  # type: ignore[comparison-overlap]


def test_siblings_of_a_file_are_quantized_anew_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.tiny_models import tiny_model

    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    path = tiny_model("llama").write(tmp_path / "m.gguf", "Q4_1")
    files = open_models(str(path), ("Q8_0", "Q4_1"))
    assert [file.model_type for file in files] == ["Q8_0", "Q4_1"]
    assert files[1].path == path and "requantized from the Q4_1 file" in files[0].note
    assert "repack" in files[1].note and "repack" not in files[0].note
    assert open_models(str(path), ("Q8_0",))[0].path == files[0].path  # kept
    alone = open_models(str(path), None)[0]
    assert alone.path == path and alone.note == ""


def test_libraries_can_be_told_apart_by_colour_and_hatch() -> None:
    marks: dict[tuple[str, str], str] = {}
    for info in backends.BACKENDS.values():
        library = {"torch_eager": "torch", "tensorflow_forward": "tensorflow", "tensorflow_xla": "tensorflow"}
        library |= {"xllamacpp_server": "llama.cpp", "llamacpp": "llama.cpp"}
        name = library.get(info.module, info.module)
        assert marks.setdefault((info.colour, info.hatch), name) == name, f"{info.name} looks like {name}"


def test_a_check_that_would_overrun_the_budget_ends_and_is_no_disagreement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "CHECKED", 0.0)
    found = compare.run(small(types=("F16", "Q4_0"), backends=("llmlite-eager",), blocks=1), progress=False)
    assert [r["model_type"] for r in found.agreement] == ["F16"]
    [skipped] = found.skipped
    assert skipped["model_type"] == "Q4_0" and "would not finish within the budget" in skipped["reason"]


def test_memory_is_not_measured_after_the_time_is_over_and_a_note_says_so() -> None:
    options = Options(model="tales", types=("Q8_0",), backends=("llmlite-eager",), budget_seconds=10.0)
    with ExitStack() as stack:
        run = compare._Run(options, stack, False)
        run._prepare()
        run.begin -= 12
        run._memory(lambda _: None)
    assert run.result.memory == []
    assert "the memory of llmlite-eager Q8_0 wasn't measured: time ran out" in run.result.notes
