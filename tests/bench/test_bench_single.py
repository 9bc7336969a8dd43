"""One backend measured as llama-bench does it, and the energy counters."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from llmlite.bench import energy, single
from llmlite.bench.backends import by_name
from llmlite.bench.inputs import open_models
from llmlite.cli import main
from llmlite.cli.bench import numbers_and_ranges
from tests.support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    request = single.Request(
        backend="llmlite-eager", prompts=(96, 0), gens=(3,), depths=(0, 5), threads=(1,), repetitions=2
    )
    return single.measure(request)


def test_each_test_has_a_record_in_llama_benchs_order(records: list[dict[str, Any]]) -> None:
    assert [(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in records] == [
        (96, 0, 0),
        (0, 3, 0),
        (96, 0, 5),
        (0, 3, 5),
    ]
    for r in records:
        assert len(r["samples_ns"]) == 2 and r["n_threads"] == 1 and r["backend"] == "llmlite-eager"
        n_tokens = r["n_prompt"] + r["n_gen"]
        assert r["samples_ts"] == [n_tokens * 1e9 / ns for ns in r["samples_ns"]]
        assert r["startup_ns"].keys() >= {"start", "import", "load", "first_token"}
        assert len(r["steps_ns"]) == 2 * r["n_gen"]


def test_every_form_holds_every_test(records: list[dict[str, Any]]) -> None:
    assert json.loads(single.shown(records, "json")) == records
    assert [json.loads(line) for line in single.shown(records, "jsonl").splitlines()] == records
    rows = list(csv.DictReader(io.StringIO(single.shown(records, "csv"))))
    assert [int(row["n_depth"]) for row in rows] == [0, 0, 5, 5]
    assert [float(row["avg_ts"]) for row in rows] == [r["avg_ts"] for r in records]
    table = single.shown(records, "md").splitlines()
    assert len(table) == 2 + len(records) and "pp96 @ d5" in table[4] and "±" in table[4]
    with pytest.raises(ValueError, match="no form 'xml'"):
        single.shown(records, "xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-b", "abacus"], "no backend 'abacus'"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-p", "999999"], "its context has"),
        (["a", "b"], "one model at a time"),
        (["env", "create"], "expected: env list"),
        (["env", "create", "abacus"], "no environment 'abacus'"),
        (["diff", "one"], "expected: diff BEFORE"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_sentence(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_command_measures_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_model("llama").write(tmp_path / "tiny.gguf")
    options = ["-b", "llmlite-eager", "-p", "4", "-n", "2", "-r", "1", "-t", "1", "-o", "jsonl"]
    assert main(["bench", str(path), *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["model_filename"] for r in lines] == ["tiny.gguf"] * 2


class Made:
    """Be a backend whose times are known: an entry for `single._tests`."""

    own_quantization, type_k, about = False, "f32", {}

    def __init__(self, prefill: dict[int, list[int]]) -> None:
        self.info = by_name("llmlite")
        self.file = open_models("tales", ())[0]
        self._prefill = {n: iter(times) for n, times in prefill.items()}

    def ask(self, action: str, ids: list[int], n_gen: int = 0) -> dict[str, Any]:
        if action == "decode":
            return {"samples_ns": [n_gen], "steps_ns": [1] * n_gen}
        return {"samples_ns": [next(self._prefill[len(ids)])]}


def made_tests(
    request: single.Request, prefill: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch, root: Path
) -> list[dict[str, Any]]:
    monkeypatch.setattr(energy, "ROOT", root)
    monkeypatch.setattr(energy.Meter.__init__, "__defaults__", (root,))
    entry: Any = Made(prefill)
    return list(single._tests(request, entry, [1] * 64, 1, {}, lambda _: None))


def test_a_prompt_at_a_depth_is_never_faster_than_its_times_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = single.Request(prompts=(8,), gens=(), depths=(5,), repetitions=3)
    noisy = {13: [0, 100, 120, 110], 5: [0, 40, 99, 150]}  # the first ones warm up
    [found] = made_tests(request, noisy, monkeypatch, tmp_path)
    assert found["samples_ns"] == [60, 80, 70]  # each whole minus the shortest of the parts before
    drowned = {13: [0, 100, 40, 110], 5: [0, 40, 99, 150]}
    with pytest.warns(UserWarning, match="pp8 @ d5: left out: reading 13 tokens took no longer than"):
        assert made_tests(request, drowned, monkeypatch, tmp_path) == []


def test_energy_of_tokens_before_a_test_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = rapl(tmp_path, package_0=(1_000_000, 10**9))
    request = single.Request(prompts=(8,), gens=(4,), depths=(0, 5), repetitions=1)
    found = made_tests(request, {8: [9, 9], 13: [9, 9], 5: [1, 1]}, monkeypatch, root)
    assert [len(each["joules"]) for each in found] == [1, 1, 0, 0]
    cells = [line.split("|")[-2].strip() for line in single.shown(found, "md").splitlines()[2:]]
    assert cells == ["0", "0", "-", "-"]


# --- energy -----------------------------------------------------------------------------------


def rapl(root: Path, **packages: tuple[int, int]) -> Path:
    """Write a tree like /sys/class/powercap: package -> (energy_uj, max_energy_range_uj)."""
    for number, (name, (energy_uj, limit)) in enumerate(packages.items()):
        for path, label in ((f"intel-rapl:{number}", name), (f"intel-rapl:{number}:0", "core")):
            folder = root / path
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{label.replace('_', '-')}\n")
            (folder / "energy_uj").write_text(f"{energy_uj}\n")
            (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return root


def test_energy_is_the_sum_of_the_packages_without_their_parts(tmp_path: Path) -> None:
    root = rapl(tmp_path, package_0=(1_000_000, 10**9), package_1=(5_000_000, 10**9))
    meter = energy.Meter(root)
    assert meter.note == ""
    meter.start()
    (root / "intel-rapl:0/energy_uj").write_text("3500000")
    (root / "intel-rapl:0:0/energy_uj").write_text("3500000")
    (root / "intel-rapl:1/energy_uj").write_text("5250000")
    assert meter.stop() == pytest.approx(2.75)


def test_a_counter_that_wrapped_goes_on(tmp_path: Path) -> None:
    root = rapl(tmp_path, package_0=(9_000_000, 10_000_000))
    meter = energy.Meter(root)
    meter.start()
    (root / "intel-rapl:0/energy_uj").write_text("500000")
    assert meter.stop() == pytest.approx(1.5)


@pytest.mark.parametrize("spoil", ["energy_uj", "max_energy_range_uj", "name"])
def test_what_cannot_be_read_is_no_figure(spoil: str, tmp_path: Path) -> None:
    root = rapl(tmp_path, package_0=(1, 10**9))
    (root / "intel-rapl:0" / spoil).write_text("nonsense" if spoil != "name" else "psys")
    meter = energy.Meter(root)
    meter.start()
    assert meter.stop() is None and meter.note == "not readable here"


def test_a_counter_that_goes_away_is_no_figure(tmp_path: Path) -> None:
    root = rapl(tmp_path, package_0=(1, 10**9))
    meter = energy.Meter(root)
    meter.start()
    (root / "intel-rapl:0/energy_uj").unlink()
    assert meter.stop() is None


def test_without_counters_the_meter_says_so(tmp_path: Path) -> None:
    assert energy.Meter(tmp_path / "nothing").note == "not readable here"


def test_the_usual_depths_are_those_that_the_context_has_room_for() -> None:
    asked = single.Request(prompts=(64,), gens=(32,))
    assert asked.fitting(4096).depths == (0, 512, 2048)
    assert asked.fitting(1024).depths == (0, 512) and asked.fitting(70).depths == (0,)
    assert single.Request(depths=(7,)).fitting(4096).depths == (7,)  # what was asked for stays


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512", (512,)),
        ("64,512", (64, 512)),
        ("1-4", (1, 2, 3, 4)),
        ("0-2048+512", (0, 512, 1024, 1536, 2048)),
        ("64-512*2", (64, 128, 256, 512)),
        ("1-10+4,7,3-3", (1, 5, 9, 7, 3)),
    ],
)
def test_lists_and_ranges_are_read_as_llama_bench_reads_them(text: str, values: tuple[int, ...]) -> None:
    assert numbers_and_ranges(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected whole numbers"),
        ("-1", "expected whole numbers"),
        ("1,,2", "expected whole numbers"),
        ("1-", "expected whole numbers"),
        ("1-4/2", "expected whole numbers"),
        ("٣", "expected whole numbers"),
        ("0-8*2", "never ends"),
        ("1-8+0", "never ends"),
        ("8-1", "is empty"),
        ("1-999999999", "more than 1000 values"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        numbers_and_ranges(text)


def test_every_combination_of_lists_is_measured_and_an_option_may_be_given_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_model("llama").write(tmp_path / "tiny.gguf")
    options = [
        "-b",
        "llmlite-eager",
        "-n",
        "4",
        "-n",
        "6-8+2",
        "-p",
        "0",
        "-d",
        "0,3",
        "-t",
        "1,2",
        "-r",
        "1",
    ]
    assert main(["bench", str(path), *options, "-o", "json"]) == 0
    found = [(r["n_threads"], r["n_depth"], r["n_gen"]) for r in json.loads(capsys.readouterr().out)]
    assert found == [(t, d, n) for t in (1, 2) for d in (0, 3) for n in (4, 6, 8)]
