"""Measurements of the article's claims: for each, the figure and the command that measures it.

    print(ll.bench.claims(only=["privacy"]))

A claim is a function below that returns a Finding. It measures on this machine, with the packages that are
installed. If a claim can't be measured, its Finding says so; no figure is quoted from another source.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmlite import resources
from llmlite.bench import environment, envs, old_formats, privacy, readers, serving, single
from llmlite.bench.backends import BACKENDS
from llmlite.bench.findings import FAILS, HOLDS, PARTLY, UNKNOWN, Claims, Finding
from llmlite.bench.inputs import agreement_ids, open_models
from llmlite.bench.process import BackendError, WorkerProcess, run_experiment
from llmlite.errors import LlmliteError

READING = 7.0  # tokens per second that an adult reads: 300 words a minute, 1.4 tokens per word
READERS = ("llmlite", "xllamacpp", "llamacpp", "openvino", "transformers")  # of GGUF files
FILE_TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()


Found = tuple[str, str, dict[str, Any]]  # verdict, figure, values


@dataclass(frozen=True, kw_only=True)
class Claim:
    key: str
    text: str
    measure: Callable[[], Found]


CLAIMS: dict[str, Claim] = {}


def _claim(key: str, text: str) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    def register(function: Callable[[], Found]) -> Callable[[], Found]:
        CLAIMS[key] = Claim(key=key, text=text, measure=function)
        return function

    return register


def claims(only: Iterable[str] = (), progress: Callable[[str], None] = lambda _: None) -> Claims:
    """Measure the claims and return the findings.

    Args:
        only: keys of CLAIMS; empty for all.
        progress: called with each claim before it is measured.

    Raises:
        LlmliteError: a key isn't one of CLAIMS.
    """
    keys = tuple(only) or tuple(CLAIMS)
    for key in keys:
        if key not in CLAIMS:
            raise LlmliteError(f"no claim {key!r}; there are: {', '.join(CLAIMS)}")
    findings = []
    for key in keys:
        claim = CLAIMS[key]
        progress(claim.text)
        try:
            verdict, figure, values = claim.measure()
        except (LlmliteError, OSError, subprocess.SubprocessError) as error:
            verdict, figure, values = UNKNOWN, f"the measurement failed: {error}", {}
        findings.append(
            Finding(
                key=key,
                claim=claim.text,
                verdict=verdict,
                figure=figure,
                command=f"llmlite claims --only {key}",
                values=values,
            )
        )
    return Claims(environment=environment.record(), findings=findings)


def _prompt(n_tokens: int) -> list[int]:
    [file] = open_models("tales", ("F16",))
    return agreement_ids(file, n_tokens)


def _installed(extra: str) -> list[str]:
    """Return the names of the backends of an extra that can run here."""
    return [info.name for info in BACKENDS.values() if info.extra == extra and not info.unavailable()]


# --- the claims -------------------------------------------------------------------------------


@_claim("hardware", "A quantized model runs on ordinary hardware, without a GPU.")
def _hardware() -> Found:
    request = single.Request(model="tales:Q4_0", prompts=(), gens=(64,), depths=(0,), repetitions=3)
    [record] = single.measure(request)
    with WorkerProcess("llmlite", 1) as worker:
        worker.ask("start")
        worker.ask("load", model=str(resources.model_path("tales:Q4_0")), n_ctx=128, n_threads=1)
        worker.ask("decode", ids=_prompt(8), n_gen=16)
        used = worker.ask("memory")
    speed, private = record["avg_ts"], used["private_bytes"]
    memory = "unreported private memory" if private is None else f"{private / 1e6:.0f} MB of private memory"
    figure = (
        f"the bundled model ({record['model_size'] / 1e6:.1f} MB, Q4_0) generates {speed:.0f} tokens/s with "
        f"{memory} on {record['cpu_info']}, {record['n_threads']} threads; a person reads "
        f"about {READING:.0f}. Larger models: llmlite compare smollm2"
    )
    verdict = HOLDS if speed > READING else FAILS
    return verdict, figure, {"tokens_per_second": speed, "private_bytes": private}


@_claim("installation", "The engine has few dependencies and is quick to set up; the frameworks are large.")
def _installation() -> Found:
    values: dict[str, Any] = {}
    values["llmlite"] = envs.cost("")
    for name in envs.ENVIRONMENTS:  # first its own environment, which recorded the time
        found = envs.cost(name, here=envs.installed(name) is None)
        if found:
            values[name] = found
    said = []
    for name, cost in values.items():
        seconds = f", {cost['install_seconds']:.0f} s" if "install_seconds" in cost else ""
        compiled = {True: ", compiled here", False: ", no compiler"}.get(cost.get("compiled"), "")
        size = f"{cost['installed_bytes'] / 1e6:.0f} MB in {cost['n_packages']} packages"
        said.append(f"{name} {size}{seconds}{compiled}")
    frameworks = [values[name]["installed_bytes"] for name in ("torch", "tensorflow") if name in values]
    if not frameworks:
        return UNKNOWN, "; ".join(said) + "; no framework is installed to compare with", values
    smaller = values["llmlite"]["installed_bytes"] < min(frameworks)
    return HOLDS if smaller else FAILS, "; ".join(said), values


@_claim("privacy", "Everything stays on the machine: no data leaves it.")
def _privacy() -> Found:
    model, ids = str(resources.model_path("tales:Q8_0")), _prompt(8)
    found = [
        privacy.examine_backend(info, model, ids) for info in BACKENDS.values() if not info.unavailable()
    ]
    isolated = [each for each in found if each.isolated]
    outside = [each for each in found if each.n_calls]
    counted = [each for each in found if each.n_calls is not None]
    figure = (
        f"{len(isolated)} of {len(found)} backends computed in a namespace without a network"
        f" ({', '.join(each.backend for each in isolated)}); "
        + (_calls(counted) if counted else "system calls to other machines: strace isn't installed")
    )
    failed = [f"{each.backend}: {each.reason}" for each in found if each.isolated is False]
    figure += f"; failed there: {'; '.join(failed)}" if failed else ""
    blocked = [each for each in found if each.blocked is not None]
    if blocked:
        n = sum(bool(each.blocked) for each in blocked)
        figure += (
            f"; namespaces and strace aren't available here: {n} of {len(blocked)} computed while their "
            "Python code could reach no other machine; connections of C++ code weren't observed"
        )
    values = {each.backend: asdict(each) for each in found}
    if not counted and not isolated:
        # blocked sockets affect Python code only, so they can't prove the claim
        return UNKNOWN, figure, values
    ours = any(each.backend.startswith("llmlite") for each in outside)
    return (FAILS if ours else PARTLY if failed or outside else HOLDS), figure, values


def _calls(counted: Sequence[privacy.Privacy]) -> str:
    """Return a sentence on the number of backends that called other machines, with their names."""
    n_silent = sum(not each.n_calls for each in counted)
    calling = [f"{each.backend} {each.n_calls}" for each in counted if each.n_calls]
    said = f"{n_silent} of {len(counted)} made no system call to another machine"
    return f"{said}; calls: {', '.join(calling)}" if calling else said


@_claim("training", "The frameworks train models, with automatic differentiation; the engine only runs them.")
def _training() -> Found:
    values: dict[str, Any] = {}
    said = []
    for extra in ("torch", "tensorflow"):
        names = _installed(extra)
        if not names:
            said.append(f"{extra} isn't installed")
            continue
        values[extra] = run_experiment(f"{extra}_training", BACKENDS[names[0]].python(), ids=_prompt(65))
        r = values[extra]
        said.append(
            f"{extra}: {r['steps']} steps on the bundled model in {r['seconds']:.0f} s, "
            f"loss {r['loss_before']:.2f} to {r['loss_after']:.2f}"
        )
    if not BACKENDS["llamacpp"].unavailable():
        said.append(_llamacpp_trains(values))
    asked = subprocess.run(
        [sys.executable, "-m", "llmlite", "train"], capture_output=True, text=True, timeout=60
    )
    values["llmlite"] = {"exit_code": asked.returncode}
    said.append(f"`llmlite train` ends with exit code {asked.returncode}: there is no such command")
    frameworks = [values[name] for name in ("torch", "tensorflow") if name in values]
    if not frameworks:
        return UNKNOWN, "; ".join(said), values
    engine = values.get("llamacpp", {})
    learned = engine.get("loss_after", 1.0) < engine.get("loss_before", 0.0)
    trained = all(each["loss_after"] < each["loss_before"] for each in frameworks)
    return (HOLDS if trained and asked.returncode and not learned else PARTLY), "; ".join(said), values


def _llamacpp_trains(values: dict[str, Any]) -> str:
    """Train with llama.cpp, store the result in `values`, and return it as a sentence."""
    try:
        r = run_experiment("llamacpp_training", BACKENDS["llamacpp"].python(), ids=_prompt(257))
    except BackendError as error:
        values["llamacpp"] = {"error": str(error)}
        return f"llama.cpp's experimental llama_opt_epoch failed: {error}"
    values["llamacpp"] = r
    return (
        f"llama.cpp's experimental llama_opt_epoch, which takes float32 weights and has no Python function: "
        f"{r['steps']} steps in {r['seconds']:.0f} s, loss {r['loss_before']:.2f} to {r['loss_after']:.2f}"
    )


@_claim("distributed", "The frameworks train on several machines at once.")
def _distributed() -> Found:
    names = _installed("torch")
    if not names:
        return UNKNOWN, "PyTorch isn't installed", {}
    found = run_experiment("torch_distributed", BACKENDS[names[0]].python())
    same = found["largest_difference"] < 1e-5
    figure = (
        f"torch.distributed (gloo), {found['processes']} processes on this machine: their losses differ by "
        f"at most {found['largest_difference']:.1e} from those of one process; several machines weren't tried"
    )
    return PARTLY if same else FAILS, figure, found


@_claim(
    "breadth",
    "The frameworks do any task and any architecture; the engine runs the language models it knows.",
)
def _breadth() -> Found:
    names = _installed("torch")
    refused = _refusal()
    values: dict[str, Any] = {"refusal": refused}
    said = f"a GGUF file with an unknown architecture is refused: {refused!r}"
    if not names:
        return UNKNOWN, f"PyTorch isn't installed; {said}", values
    found = run_experiment("torch_breadth", BACKENDS[names[0]].python())
    values |= found
    learned = (
        found["image_accuracy"] > 0.9
        and found["series_error"] < 0.1
        and found["reward"] > 0.8
        and found["new_architecture_output"] == [6, 50]
    )
    figure = (
        f"small tasks in PyTorch: {found['image_accuracy']:.0%} of images classified correctly (guessing: "
        f"{found['image_guess']:.0%}), a time series with an error of {found['series_error']:.1e} (guessing: "
        f"{found['series_guess']}), a reward of {found['reward']:.2f} (guessing: {found['reward_guess']}), "
        f"a new architecture in ten lines; {said}"
    )
    return HOLDS if learned and refused else PARTLY, figure, values


def _refusal() -> str:
    """Return llmlite's error for a file with an unknown architecture; "" if it accepts the file."""
    from llmlite import gguf
    from llmlite.model import load

    with gguf.read(resources.model_path("tales:Q8_0")) as file:
        metadata = {**file.metadata, "general.architecture": "runningmean"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "unknown.gguf"
            gguf.write(path, metadata, file.tensors)
            try:
                load(path)
            except LlmliteError as error:
                return str(error).replace(str(path), path.name)
    return ""


@_claim("formats", "One file format serves many engines, types and architectures.")
def _formats() -> Found:
    from llmlite.description.architectures import ARCHITECTURES

    values: dict[str, Any] = {"llmlite_architectures": list(ARCHITECTURES), "types_tried": FILE_TYPES}
    said = []
    for name in READERS:
        info = BACKENDS[name]
        if info.unavailable():
            said.append(f"{info.title} isn't installed")
            continue
        values[name] = readers.types(name, FILE_TYPES)
        said.append(f"{info.title} {sum(values[name].values())} of {len(FILE_TYPES)}")
    figure = (
        f"the bundled model in {len(FILE_TYPES)} types, loaded and run by: {', '.join(said)}; "
        f"llmlite knows {len(ARCHITECTURES)} architectures"
    )
    found = [name for name in READERS if name in values]
    values["architectures"] = tried = readers.architectures(found)
    figure += (
        f"; of {len(tried)} architectures (a small random model of each), loaded and run by: "
        + ", ".join(f"{BACKENDS[name].title} {sum(each[name] for each in tried.values())}" for name in found)
    )
    values["before_gguf"] = before = readers.old_forms(found)
    figure += f"; of {len(old_formats.FORMS)} formats older than GGUF, loaded and run by: " + ", ".join(
        f"{BACKENDS[name].title} {sum(read_by.values())}{' (converted)' * (name == 'llmlite')}"
        for name, read_by in before.items()
    )
    read = [sum(values[name].values()) for name in READERS if name in values]
    if len(read) < 2:
        return UNKNOWN, figure, values
    return HOLDS if min(read) == len(FILE_TYPES) else PARTLY, figure, values


@_claim("devices", "It runs from a phone's processor to a server's GPU.")
def _devices() -> Found:
    machine = environment.record()["machine"]
    figure = (
        f"this machine is {machine}; another processor's speed can't be measured here. `make arm-test` runs "
        "the engine's tests on an emulated 64-bit ARM, which shows that it computes the same there, but "
        "not how fast. No GPU was used, and vendors' figures aren't quoted"
    )
    return UNKNOWN, figure, {"machine": machine}


@_claim("community", "The frameworks have the larger communities.")
def _community() -> Found:
    return UNKNOWN, "the size of a community can't be measured on this machine", {}


@_claim("ecosystem", "The frameworks fit into Transformers, TensorFlow Hub, Triton and SageMaker.")
def _ecosystem() -> Found:
    values: dict[str, Any] = {}
    model, ids = str(resources.model_path("tales:Q8_0")), _prompt(8)
    for name in ("transformers", "tensorflow-hub"):
        info = BACKENDS[name]
        if reason := info.unavailable():
            values[name] = reason
            continue
        try:
            with WorkerProcess(name, 1, python=info.python(), timeout=240) as worker:
                worker.ask("start")
                worker.ask("convert", model=model, n_ctx=64)
                worker.ask("load", model=model, n_ctx=64, n_threads=1)
                worker.ask("decode", ids=ids, n_gen=4)
            values[name] = "ran the bundled model"
        except BackendError as error:
            values[name] = str(error)
    try:
        with serving.server(_served_model()) as url:
            served = serving.protocols(url)
    except LlmliteError as error:
        served = {"llmlite serve": str(error)}
    values |= served
    works = [said in ("ran the bundled model", "answered") for said in values.values()]
    figure = "; ".join(f"{name}: {said}" for name, said in values.items())
    figure += "; the protocols were tried on llmlite serve, not on a Triton server or in SageMaker itself"
    return (PARTLY if any(works) else UNKNOWN), figure, values


@_claim("scale", "The frameworks' servers scale to many users at once.")
def _scale() -> Found:
    model = _served_model()
    with serving.server(model, "--parallel", "16") as url:
        found = serving.throughput(url)
    said = ", ".join(f"{each.tokens_per_second:.0f} tokens/s with {each.clients}" for each in found)
    gain = found[-1].tokens_per_second / found[0].tokens_per_second
    figure = (
        f"llmlite serve {model} on this machine, by number of simultaneous clients: {said}; that is "
        f"{gain:.1f} times as much with {found[-1].clients} clients as with one. The engine has a server "
        "too; the frameworks' servers and several machines weren't measured"
    )
    values = {str(each.clients): asdict(each) for each in found}
    return (PARTLY if gain > 1.5 else UNKNOWN), figure, {"model": model, "clients": values, "gain": gain}


def _served_model() -> str:
    """Return the name of SmolLM2 if it was pulled, otherwise that of the bundled model."""
    try:
        resources.model_path("smollm2")
    except (LlmliteError, OSError):
        return "tales:Q8_0"
    return "smollm2:Q8_0"


def as_json(found: Claims) -> str:
    """Return the findings and the machine as JSON text."""
    return json.dumps({"environment": found.environment, "findings": found.records()}, indent=2)
