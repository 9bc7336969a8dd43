"""A comparison from end to end on the bundled model, and the worker's protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.bench import agreement, backends, checking, compare, questions, worker
from llmlite.bench.inputs import open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError, BackendTimeoutError, WorkerProcess
from llmlite.bench.samples import Comparison
from llmlite.cli import main

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


class Counting:
    """A backend that always answers the next number; its logits are rows of zeros."""

    def start(self) -> None: ...

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if path == "missing":
            raise FileNotFoundError(path)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return np.zeros((len(ids), 4), np.float32)

    def prefill(self, ids: Sequence[int]) -> int:
        return ids[-1] + 1

    def step(self, token: int) -> int:
        return token + 1

    def about(self) -> dict[str, Any]:
        return {"n_threads": 1, "type_k": "f32"}


@pytest.fixture
def counting() -> worker.Worker:
    made = worker.Worker("counting")
    made.backend = Counting()
    return made


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare.run(SMALL, progress=False)


# --- the worker -------------------------------------------------------------------------------


def test_decoding_reads_the_prompt_then_makes_one_token_per_step(counting: worker.Worker) -> None:
    answer = counting.answer({"do": "decode", "ids": [1, 2, 3], "n_gen": 5, "repetitions": 2})
    assert answer["ok"] and answer["ids"] == [4, 5, 6, 7, 8]
    assert len(answer["samples_ns"]) == 2 and len(answer["steps_ns"]) == 5
    assert sum(answer["steps_ns"]) == answer["samples_ns"][-1]


def test_decoding_without_ids_goes_on_behind_the_last_step(counting: worker.Worker) -> None:
    counting.answer({"do": "decode", "ids": [1, 2, 3], "n_gen": 2})
    answer = counting.answer({"do": "decode", "ids": [], "n_gen": 3})
    assert answer["ok"] and answer["ids"] == [6, 7, 8]


def test_a_failing_backend_answers_with_its_error_and_goes_on(counting: worker.Worker) -> None:
    failed = counting.answer({"do": "load", "model": "missing", "n_ctx": 8, "n_threads": 1})
    assert failed == {"ok": False, "error": "FileNotFoundError: missing"}
    assert counting.answer({"do": "prefill", "ids": [1]})["ok"]


def test_only_requests_of_the_protocol_are_answered(counting: worker.Worker) -> None:
    for action in ("answer", "__init__", "rm", ""):
        assert not counting.answer({"do": action})["ok"]


def test_logits_travel_through_a_file_not_through_the_lines(counting: worker.Worker, tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    assert counting.answer({"do": "logits", "ids": [1, 2], "out": str(out)})["shape"] == [2, 4]
    assert np.load(out).dtype == np.float32


def test_a_backend_that_cannot_start_is_reported_not_raised_in_the_parent() -> None:
    with WorkerProcess("no-such-backend", 1) as process, pytest.raises(BackendError, match="no backend"):
        process.ask("start")


def test_a_dead_worker_is_reported_with_how_it_ended() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process._process.kill()
        with pytest.raises(BackendError, match="ended with code"):
            process.ask("start")


def test_a_worker_that_does_not_answer_is_given_up() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process.timeout = 0.0
        with pytest.raises(BackendError, match="no answer in 0 seconds"):
            process.ask("start")


def test_no_worker_outlives_its_parents_interest() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        inner = process._process
    assert inner.poll() is not None


def test_the_folder_the_user_stands_in_lends_a_worker_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    (tmp_path / "llmlite").mkdir()
    monkeypatch.chdir(tmp_path)
    with WorkerProcess("llmlite-eager", 1) as process:
        assert process.ask("start")["ns"] > 0


def test_threads_are_set_before_the_interpreter_starts() -> None:
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc to look into another process")
    with WorkerProcess("llmlite-eager", 1) as process:
        text = Path(f"/proc/{process._process.pid}/environ").read_text()
    assert "OMP_NUM_THREADS=1\0" in text and "OPENBLAS_NUM_THREADS=1\0" in text


# --- agreement --------------------------------------------------------------------------------


def judged(logits: np.ndarray, reference: np.ndarray, backend: str) -> dict[str, Any]:
    return agreement.judge(logits, reference, reference, backends.BACKENDS[backend])


def test_float32_arithmetic_is_held_to_a_ten_thousandth() -> None:
    reference = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert judged(reference + 5e-4, reference, "torch-f32")["agrees"]
    refused = judged(reference + 5e-3, reference, "torch-f32")
    assert not refused["agrees"] and "differ by 0.005" in refused["reason"]


def test_lower_precision_is_held_to_divergence_and_best_token() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(200, 50))).astype(np.float32)
    nearly = reference + 0.05 * random.normal(size=reference.shape)
    assert judged(nearly, reference, "torch-bf16")["agrees"]
    other = 4 * random.normal(size=reference.shape)
    refused = judged(other, reference, "torch-bf16")
    assert not refused["agrees"] and "KL" in refused["reason"]


def test_other_best_tokens_count_only_if_the_distributions_differ() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(100, 20_000)).astype(np.float32)  # as of random weights: many near-ties
    verdict = judged(flat + 0.05 * random.normal(size=flat.shape), flat, "llmlite")
    assert verdict["top1"] < agreement.MIN_TOP1 and verdict["kl"] < agreement.TIES_KL and verdict["agrees"]
    verdict = judged(flat + 0.1 * random.normal(size=flat.shape), flat, "llmlite")
    assert agreement.TIES_KL < verdict["kl"] < agreement.MAX_KL and not verdict["agrees"]


@pytest.mark.parametrize("backend", ["torch-f32", "torch-bf16"])
def test_a_shifted_position_or_a_wrong_token_order_does_not_agree(backend: str) -> None:
    reference = (4 * np.random.default_rng(0).normal(size=(50, 50))).astype(np.float32)
    assert not judged(np.roll(reference, 1, axis=0), reference, backend)["agrees"]
    assert not judged(np.roll(reference, 1, axis=1), reference, backend)["agrees"]


def test_numbers_that_are_not_finite_do_not_agree() -> None:
    reference = np.zeros((3, 4), np.float32)
    assert "finite" in judged(np.full((3, 4), np.nan), reference, "torch-bf16")["reason"]


def test_without_a_reference_nothing_agrees() -> None:
    logits = np.zeros((3, 4), np.float32)
    verdict = agreement.judge(logits, None, None, backends.BACKENDS["llmlite"])
    assert not verdict["agrees"] and "no float32 reference" in verdict["reason"]


def test_a_writer_that_loses_its_place_does_not_agree() -> None:
    random = np.random.default_rng(0)
    logits = (4 * random.normal(size=(6, 50))).astype(np.float32)
    best = logits.argmax(axis=-1)
    assert agreement.judge_steps(logits, best, 0.0) == {}
    refused = agreement.judge_steps(logits, np.roll(best, 1), 0.05)
    assert not refused["agrees"] and "read at once" in refused["reason"]


def test_a_near_tie_may_fall_either_way() -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[:, 3], logits[:, 4] = 9.0, 8.9
    assert agreement.judge_steps(logits, [4, 3], 0.1) == {}
    assert agreement.judge_steps(logits, [4, 3], 0.01)["agrees"] is False


def small(**changes: Any) -> Options:
    """The smallest comparison there is, of NumPy alone, but for `changes`."""
    options: dict[str, Any] = {
        "backends": ("llmlite-eager",),
        "types": ("F16",),
        "threads": 1,
        "blocks": 1,
        "prompts": (8,),
        "depths": (4,),
        "n_gen": 2,
        "start_runs": 1,
    }
    return Options(**options | changes)


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


def test_the_time_budget_ends_the_blocks_and_says_so() -> None:
    found = compare.run(small(blocks=50, budget_seconds=0.001), progress=False)
    assert {m.block for m in found.measurements} == {-1, 0}
    assert any("1 of 50 blocks" in note for note in found.notes)


def test_lengths_that_do_not_fit_the_context_are_left_out() -> None:
    run = compare._Run(Options(prompts=(64, 10**6), depths=(1, 10**6), n_gen=16), None, False)  # type: ignore[arg-type]
    run._prepare()
    assert run.prompts == (64,) and run.depths == (1,)
    assert "no decode after 1000000 tokens: the context has 1024" in run.result.notes


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
    found = compare.run(
        Options(backends=("llmlite-eager",), types=("F16",), threads=1, blocks=1, prompts=(8,), start_runs=1),
        progress=False,
    )
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
    assert "How each ran" in str(comparison)


def test_what_cannot_be_started_in_time_is_left_out_with_the_reason() -> None:
    found = compare.run(small(types=("F16", "Q4_0"), budget_seconds=0.001), progress=False)
    [left_out] = found.skipped
    assert left_out["model_type"] == "Q4_0" and "not started" in left_out["reason"]
    assert {m.model_type for m in found.measurements} == {"F16"}


def test_weights_of_its_own_have_a_wider_bar_and_say_so() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(200, 50))).astype(np.float32)
    coarse = reference + 1.0 * random.normal(size=reference.shape)
    info = backends.BACKENDS["torch-int8"]
    assert not agreement.judge(coarse, reference, reference, info)["agrees"]
    assert agreement.judge(coarse, reference, reference, info, own=True)["agrees"]
    other = 4 * random.normal(size=reference.shape)
    assert not agreement.judge(other, reference, reference, info, own=True)["agrees"]


def test_log_probabilities_are_judged_as_logits_are() -> None:
    from llmlite.bench.quality import log_softmax

    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(40, 50)) + 7).astype(np.float32)
    info = backends.BACKENDS["xllamacpp"]
    verdict = agreement.judge(log_softmax(reference), reference, reference, info)
    assert verdict["agrees"] and verdict["max_abs_diff"] < 1e-4 and verdict["same_file_kl"] < 1e-9


def test_tokens_alone_are_judged_by_the_best_token() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(40, 50))).astype(np.float32)
    best = reference.argmax(axis=-1)
    assert agreement.judge_tokens(best, reference, reference)["agrees"]
    refused = agreement.judge_tokens((best + 1) % 50, reference, reference)
    assert not refused["agrees"] and "below the best" in refused["reason"]
    assert not agreement.judge_tokens(best, None, None)["agrees"]


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
    assert files[1].path == path and "quantized anew from the Q4_1 file" in files[0].note
    assert open_models(str(path), ("Q8_0",))[0].path == files[0].path  # kept
    assert open_models(str(path), None)[0].path == path


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
    assert skipped["model_type"] == "Q4_0" and "would not end in time" in skipped["reason"]


def test_memory_is_not_measured_after_the_time_is_over_and_a_note_says_so() -> None:
    options = Options(model="tales", types=("Q8_0",), backends=("llmlite-eager",), budget_seconds=10.0)
    with ExitStack() as stack:
        run = compare._Run(options, stack, False)
        run._prepare()
        run.begin -= 12
        run._memory(lambda _: None)
    assert run.result.memory == []
    assert "memory of llmlite-eager Q8_0 not measured: the time was over" in run.result.notes


def test_a_worker_keeps_a_limit_over_several_answers() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process.ask("start")
        with pytest.raises(BackendTimeoutError, match="time was over"), process.answering_within(0.0):
            process.ask("load", model="nothing.gguf", n_ctx=8, n_threads=1)
        assert process.timeout == 300


# --- questions ----------------------------------------------------------------------------------


def test_a_perfect_pupil_gets_every_mark_and_a_wrong_word_costs_one() -> None:
    [file] = open_models("tales", ("F16",))
    exam = questions.exam(file, n_ctx=400, n=6)
    answers = {
        q.ids: [*exam.tokenizer.encode(q.answer, add_special=False), exam.tokenizer.eos_id, 7, 7]
        for q in exam.questions
    }
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}) == (6, 6)
    answers[exam.questions[2].ids] = answers[exam.questions[3].ids]
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}) == (5, 6)
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}, seconds=0.0) == (1, 1)


def test_the_bundled_model_answers_exactly_and_a_short_context_is_asked_nothing() -> None:
    [file] = open_models("tales", ("F16",))
    exam = questions.exam(file, n_ctx=400, n=4)
    model = ll.load("tales")

    def ask(_: str, ids: list[int], n_gen: int) -> dict[str, list[int]]:
        stream = model.stream(ids, max_tokens=n_gen, temperature=0)
        list(stream)
        return {"ids": list(stream.ids)}

    assert exam.marks(ask, seconds=60) == (4, 4)
    assert questions.exam(file, n_ctx=32).questions == ()
