"""The claims: verdicts follow from figures; what can't be measured says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.bench import article, old_formats, privacy, readers, serving
from llmlite.bench.backends import BACKENDS, BackendInfo
from llmlite.bench.process import BackendError, run_experiment
from llmlite.cli import main
from llmlite.errors import LlmliteError
from llmlite.gguf import legacy
from tests.support.tiny_models import tiny_model

LOG = """\
12 connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT
12 bind(4, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
13 connect(5, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("93.184.216.34")}, 16) = 0
13 connect(5, {sa_family=AF_INET6, sin6_port=htons(443), inet_pton(AF_INET6, "2606::1", &sin6_addr)}, 28) = -1
13 bind(6, {sa_family=AF_INET6, sin6_port=htons(0), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0
13 sendto(7, "GET", 3, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.2")}, 16) = 3
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two claims that need no machine."""

    def works() -> Any:
        return article.HOLDS, "7 of 7", {"n": 7}

    def breaks() -> Any:
        raise BackendError("torch died")

    monkeypatch.setattr(
        article,
        "CLAIMS",
        {
            "works": article.Claim(key="works", text="It works.", measure=works),
            "breaks": article.Claim(key="breaks", text="It breaks.", measure=breaks),
        },
    )


def test_every_claim_of_the_article_has_a_row() -> None:
    wanted = (
        "hardware installation privacy training distributed breadth formats devices community ecosystem scale"
    )
    assert list(article.CLAIMS) == wanted.split()


def test_a_measurement_that_failed_is_no_verdict(made_up: None) -> None:
    found = article.claims()
    assert found["works"].verdict == article.HOLDS and found["works"].values == {"n": 7}
    assert found["breaks"].verdict == article.UNKNOWN and "torch died" in found["breaks"].figure
    assert found["works"].command == "llmlite claims --only works"


def test_findings_survive_a_file_and_show_everywhere(made_up: None, tmp_path: Path) -> None:
    found = article.claims()
    again = article.Claims.load(found.save(tmp_path / "claims.json"))
    assert again == found and json.loads(article.as_json(found))["findings"] == found.records()
    for text in (str(found), found._repr_html_()):
        assert "It works." in text and "7 of 7" in text and "llmlite claims --only works" in text
    with pytest.raises(KeyError, match="works, breaks"):
        _ = found["abacus"]


def test_a_file_with_another_verdict_is_refused(made_up: None, tmp_path: Path) -> None:
    path = article.claims().save(tmp_path / "claims.json")
    path.write_text(path.read_text().replace('"holds"', '"splendid"'))
    with pytest.raises(LlmliteError, match="splendid"):
        article.Claims.load(path)


def test_the_picture_has_a_mark_and_words_for_each_claim(made_up: None) -> None:
    pytest.importorskip("matplotlib")
    from llmlite import plots

    picture = plots.claims.table(article.claims(), theme="light")
    assert picture.y["verdict"] == [0.0, 3.0] and list(picture.x) == ["works", "breaks"]
    assert "It works. Holds: 7 of 7." in picture.alt


def test_the_command_prints_json_and_names_what_it_does_not_know(
    made_up: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claims", "--only", "works", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["verdict"] == "holds"
    assert main(["claims", "--only", "abacus"]) == 2
    assert "there are: works, breaks" in capsys.readouterr().err


def test_every_protocol_of_the_server_writes_the_same_text_and_every_client_gets_its_tokens() -> None:
    pytest.importorskip("uvicorn")
    with serving.server("tales:Q8_0") as url:
        answers = serving.protocols(url)
        found = serving.throughput(url, (1, 2), n_tokens=4)
        assert serving.ask(f"{url}/v2/models/another/generate", {"text_input": "The fox"})[0] == 404
    assert set(answers.values()) == {"answered"} and len(answers) == 6
    assert [(each.clients, each.tokens) for each in found] == [(n, 4 * serving.REQUESTS) for n in (1, 2)]


def test_a_server_that_does_not_start_says_why() -> None:
    pytest.importorskip("uvicorn")
    said = "ended before it was ready.*no-such-model"
    with pytest.raises(LlmliteError, match=said), serving.server("no-such-model"):
        pass


def test_an_unknown_architecture_is_refused_by_name() -> None:
    assert "runningmean" in article._refusal()


# --- privacy ----------------------------------------------------------------------------------


def test_calls_to_other_machines_are_counted_and_local_ones_named() -> None:
    assert privacy.parse_trace(LOG) == (3, ("127.0.0.1", "::1"))
    assert privacy.parse_trace("") == (0, ())


@pytest.mark.parametrize(
    "call",
    [
        'connect(5, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0',
        'bind(5, {sa_family=AF_INET6, sin6_port=htons(53), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0',
        'connect(5, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0',
    ],
)
def test_a_name_that_a_resolver_on_this_machine_is_asked_for_counts(call: str) -> None:
    assert privacy.parse_trace(f"12 {call}\n") == (1, ())
    assert privacy.parse_trace('12 connect(5, {sa_family=AF_UNIX, sun_path="/run/x"}, 42) = 0') == (0, ())


def test_llmlite_computes_without_a_network_and_calls_nobody() -> None:
    ids = list(range(3, 9))
    model = str(article.resources.model_path("tales"))
    found = privacy.examine_backend(BACKENDS["llmlite-eager"], model, ids)
    if not privacy.can_isolate():
        assert found.isolated is None and "unshare" in found.reason
        pytest.skip("this system gives no network namespace")
    assert found.isolated is True and not found.n_calls


def test_privacy_is_examined_for_every_backend_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(info: BackendInfo, model: str, ids: list[int]) -> privacy.Privacy:
        return privacy.Privacy(backend=info.name, isolated=True, n_calls=int(info.name == "openvino"))

    monkeypatch.setattr(privacy, "examine_backend", examine)
    monkeypatch.setattr(BackendInfo, "unavailable", lambda info: "gone" if info.name == "llamacpp" else "")
    verdict, figure, values = article.CLAIMS["privacy"].measure()
    assert list(values) == [name for name in BACKENDS if name != "llamacpp"]
    assert verdict == article.PARTLY and "17 of 17 backends computed" in figure
    assert "16 of 17 made no system call to another machine; calls: openvino 1" in figure


def test_a_backend_that_asks_the_network_fails_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(info: BackendInfo, *rest: Any) -> None:
        if rest[-1]:
            raise BackendError(f"{info.name}, load: network is unreachable")

    monkeypatch.setattr(privacy, "can_isolate", lambda: True)
    monkeypatch.setattr(privacy, "_work", asks)
    found = privacy.examine_backend(BACKENDS["llmlite"], "m.gguf", [1])
    assert found.isolated is False and "unreachable" in found.reason and found.n_calls is None


def test_without_a_namespace_and_strace_the_sockets_of_python_code_are_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(privacy, "can_isolate", lambda: False)
    monkeypatch.setattr(privacy.shutil, "which", lambda name: None)
    model = str(article.resources.model_path("tales"))
    found = privacy.examine_backend(BACKENDS["llmlite-eager"], model, list(range(3, 9)))
    assert (found.isolated, found.n_calls, found.blocked) == (None, None, True)

    def dies(info: BackendInfo, *rest: Any) -> None:
        raise BackendError("'192.0.2.1' is another machine")

    monkeypatch.setattr(privacy, "_work", dies)
    found = privacy.examine_backend(BACKENDS["llmlite-eager"], model, [3])
    assert found.blocked is False and "another machine" in found.reason


def test_a_blocked_process_reaches_itself_and_nobody_else() -> None:
    code = """
import socket
from llmlite.bench import offline
offline.block_sockets()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
refused = 0
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=5),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
):
    try:
        attempt()
    except PermissionError as error:
        assert "another machine" in str(error)
        refused += 1
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "4", done.stderr


# --- experiments ------------------------------------------------------------------------------


def test_an_experiment_that_fails_says_its_last_line() -> None:
    with pytest.raises(BackendError, match="no_such_experiment: ModuleNotFoundError"):
        run_experiment("no_such_experiment")


@pytest.mark.slow
def test_pytorch_trains_the_bundled_model() -> None:
    pytest.importorskip("torch")
    found = run_experiment("torch_training", ids=article._prompt(33))
    assert found["loss_after"] < 0.9 * found["loss_before"]


@pytest.mark.slow
@pytest.mark.conformance
def test_llama_cpp_trains_when_asked_and_starts_from_pytorchs_loss() -> None:
    pytest.importorskip("torch")
    if reason := BACKENDS["llamacpp"].unavailable():
        pytest.skip(reason)
    ids = article._prompt(257)
    found = run_experiment("llamacpp_training", BACKENDS["llamacpp"].python(), ids=ids)
    assert found["loss_before"] == pytest.approx(
        run_experiment("torch_training", ids=ids)["loss_before"], rel=1e-4
    )
    assert found["loss_after"] < 0.9 * found["loss_before"]
    with pytest.raises(BackendError, match="expected 257 tokens, got 9"):
        run_experiment("llamacpp_training", BACKENDS["llamacpp"].python(), ids=ids[:9])


def test_a_reader_that_died_of_a_file_reads_the_next_one(tmp_path: Path) -> None:
    tiny = tiny_model("llama").write(tmp_path / "tiny.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with readers.Reader("llmlite-eager") as reader:
        assert reader.reads(tiny) and not reader.reads(tmp_path / "bad.gguf") and reader.reads(tiny)
        assert reader.worker is not None
        reader.worker._process.kill()
        assert not reader.reads(tiny) and reader.worker is None
        assert reader.reads(tiny)


def test_architectures_are_tried_one_by_one_on_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(readers.shapes()) >= 25 and "bert" not in readers.shapes()
    monkeypatch.setattr(readers, "shapes", lambda: {"llama": "smollm2-135m", "mamba": "mamba-130m"})
    found = readers.architectures(["llmlite-eager"])
    assert found == {"llama": {"llmlite-eager": True}, "mamba": {"llmlite-eager": True}}


@pytest.mark.slow
def test_every_architecture_of_the_trial_is_one_that_llmlite_reads() -> None:
    found = readers.architectures(["llmlite-eager"])
    assert found == {name: {"llmlite-eager": True} for name in readers.shapes()}


@pytest.mark.parametrize("form", old_formats.FORMS)
def test_small_files_from_before_gguf_are_what_they_are_called(form: str, tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    old_formats.write(path, form)
    assert legacy.read_legacy(path).name == form
    gguf.convert_legacy(path, tmp_path / "new.gguf", n_ctx=64)
    assert np.isfinite(ll.load(tmp_path / "new.gguf", executor="eager").logits([1, 2, 3])).all()
    with pytest.raises(LlmliteError, match="older than GGUF"):
        ll.load(path)


def test_an_engine_that_trains_makes_the_claim_hold_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def trains(name: str, *_: Any, **__: Any) -> dict[str, Any]:
        return {"steps": 20, "seconds": 1.0, "loss_before": 2.0, "loss_after": 1.0}

    def fails(name: str, *rest: Any, **options: Any) -> dict[str, Any]:
        if name == "llamacpp_training":
            raise BackendError("it was killed")
        return trains(name)

    monkeypatch.setattr(article, "_installed", lambda extra: ["torch-f32"] if extra == "torch" else [])
    monkeypatch.setattr(BackendInfo, "unavailable", lambda info: "")
    monkeypatch.setattr(article, "run_experiment", trains)
    verdict, figure, values = article.CLAIMS["training"].measure()
    assert verdict == article.PARTLY and "llama_opt_epoch" in figure and values["llamacpp"]["steps"] == 20
    monkeypatch.setattr(article, "run_experiment", fails)
    verdict, figure, values = article.CLAIMS["training"].measure()
    assert (
        verdict == article.HOLDS
        and "it was killed" in figure
        and values["llamacpp"] == {"error": "it was killed"}
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does() -> None:
    pytest.importorskip("torch")
    found = run_experiment("torch_distributed")
    assert found["largest_difference"] < 1e-5
    assert found["losses_alone"][-1] < found["losses_alone"][0]


@pytest.mark.slow
def test_tensorflow_trains_the_bundled_model() -> None:
    info = BACKENDS["tensorflow"]
    if reason := info.unavailable():
        pytest.skip(reason)
    found = run_experiment("tensorflow_training", info.python(), ids=article._prompt(33))
    assert found["loss_after"] < 0.9 * found["loss_before"]
