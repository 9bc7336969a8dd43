"""Sentences of the lessons about shipped figures: the figures bear them out, and the sentence is still there.

A lesson quotes samples that are taken again now and then (`tools/samples.py`). A sentence that the new ones
no longer bear out fails here.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from llmlite import resources
from llmlite.bench import timeline
from llmlite.bench.ladder import Ladder
from llmlite.bench.roofline import Roofline
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import ratio, summarize
from llmlite.lessons import fewer_bits, sizes, type_sweep
from llmlite.lessons.kernels import best_speed

SOURCE = resources.notebooks_path() / "source"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="the lessons' sources are in a checkout only")


def text(number: str) -> str:
    """Return a lesson's source as one line of words, without the signs of comments."""
    (path,) = SOURCE.glob(f"{number}_*.py")
    return " ".join(re.sub(r"(?m)^# ?|\"\s*\n\s*\"", " ", path.read_text(encoding="utf-8")).split())


def value(comparison: Comparison, metric: str, backend: str, type_name: str) -> float:
    """Return the median of a metric for one backend and type."""
    (found,) = (s for s in summarize(comparison, metric) if (s.backend, s.model_type) == (backend, type_name))
    return found.value


def test_00_a_quarter_of_the_bits_and_little_memory_beside_pytorch() -> None:
    assert "A quarter of the bits, and still a tale; and little memory, compared with PyTorch" in text("00")
    sample = fewer_bits.sample()
    f16, q4_k = sample.llmlite("F16"), sample.llmlite("Q4_K")
    assert q4_k.weight_bytes < 0.3 * f16.weight_bytes and len(q4_k.tale.split()) > 20
    assert all(other.private_bytes > 3 * f16.private_bytes for other in sample.others)


def test_01_more_than_99_in_100_bytes_are_weights() -> None:
    from llmlite import gguf
    from llmlite.lessons.file_layout import ByteMap

    assert "The weights take 8.9 million bytes, all other parts together 63 thousand" in text("01")
    regions = {r.name: r.n_bytes for r in ByteMap(gguf.read(resources.model_path("tales"))).regions}
    weights = regions.pop("tensor data")
    assert round(weights / 1e6, 1) == 8.9 and round(sum(regions.values()) / 1e3) == 63
    assert weights > 0.99 * (weights + sum(regions.values())) and regions["header"] == 24


def kl(name: str, *, imatrix: bool = False) -> float:
    """Return the KL divergence of a type in the shipped sweep, in nats."""
    return type_sweep.shipped().find(name, imatrix=imatrix).kl


def test_03_little_is_lost_down_to_five_bits_and_more_and_more_below_four() -> None:
    assert "From 16 to about 5 bits little is lost." in text("03")
    assert "Below 4 every half bit costs more than the one before." in text("03")
    assert kl("Q8_0") < kl("Q6_K") < kl("Q5_K") < kl("Q4_1") < 0.02
    costs = [kl(name) for name in ("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ1_M")]  # 4.25 to 1.75 bits
    steps = [after - before for before, after in pairwise(costs)]
    assert all(step > 0 for step in steps) and steps == sorted(steps), steps


def test_03_an_importance_matrix_helps_more_at_two_bits_than_at_six() -> None:
    assert "An importance matrix says which columns matter most. Where does it help more?" in text("03")
    assert "Does an IQ type beat the K type at 3.5 bits?" in text("03")
    gains = [kl(name) - kl(name, imatrix=True) for name in ("Q2_K", "Q6_K")]
    assert gains[0] > 10 * abs(gains[1])
    assert kl("Q2_K", imatrix=True) / kl("Q2_K") < kl("Q6_K", imatrix=True) / kl("Q6_K")
    assert kl("IQ3_S") < kl("Q3_K")


def test_03_types_for_models_trained_with_them_leave_nothing_of_a_usual_one() -> None:
    assert "Rounding a usual model to them leaves nothing" in text("03")
    assert all(kl(name) > 5 for name in ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"))


def test_07_simd_gains_most_and_most_runs_of_q8_0_are_near_the_wall() -> None:
    assert "of all steps, this one gains the most" in text("07")
    assert "choose Q8_0, and most runs are near the dashed line" in text("07")
    found = Ladder.sample()
    for type_name in ("Q4_0", "Q8_0"):
        speeds = [best_speed(step) for step in found.of(type_name)]
        gains = [after / before for before, after in pairwise(speeds)]
        assert gains[1] == max(gains) and 1 < gains[2] <= 2.2, (type_name, gains)  # two cores
    last = found.of("Q8_0")[-1]
    share = last.bytes / np.median(last.samples_ns) * 1e9 / found.roof.bytes_per_second
    assert 0.75 < share < 1.25, f"the usual run has {share:.0%} of the speed of memory"


def test_07_the_kernels_come_near_the_wall_and_not_over_it() -> None:
    assert "No kernel gets all of it" in text("07")
    sample = Roofline.sample()
    step = sample.points["decode"]
    wall = sample.roof.bytes_per_second / sum(point.bytes for point in step if point.type)
    assert 0.6 < 1e9 / sum(point.nanoseconds for point in step) / wall < 1


def test_08_from_q8_0_to_q4_0_prefill_stays_and_decode_and_memory_change() -> None:
    assert "On SmolLM2, where will llmlite show hardly any gap" in text("08")
    sample = Comparison.sample("smollm2")
    q4_0, q8_0 = (("llmlite", name) for name in ("Q4_0", "Q8_0"))
    prefill, decode = (ratio(sample, metric, q4_0, q8_0) for metric in ("prefill", "decode"))
    assert prefill is not None and decode is not None
    assert 0.9 < prefill.value < 1.1 and decode.value > 1.25
    assert value(sample, "file", *q4_0) < 0.85 * value(sample, "file", *q8_0)
    assert abs(value(sample, "private", *q4_0) / value(sample, "private", *q8_0) - 1) < 0.05


def test_08_fewer_bytes_save_time_on_the_largest_model_and_hardly_on_tales() -> None:
    assert "From Q8_0 to Q4_0 the bytes go down to six tenths" in text("08")
    assert "On `tales` it goes down only to about nine tenths" in text("08")
    assert "with Q4_0 a token takes about twice as long as memory alone would" in text("08")
    assert "PyTorch's float32 has seven times as many bytes to fetch" in text("08")
    sweep = sizes.shipped()

    def share(model: str, what: str) -> float:
        q4_0, q8_0 = (sweep.find(model, f"llmlite {name}") for name in ("Q4_0", "Q8_0"))
        return getattr(q4_0, what) / getattr(q8_0, what)

    assert 0.55 < share("1B shape", "step_bytes") < 0.65 and 0.55 < share("1B shape", "seconds") < 0.65
    assert 0.85 < share("tales", "seconds") < 1
    times = {name: each for name, *_, each in sizes.above_the_wall(sweep)}
    assert 1.6 < times["tales, llmlite Q4_0"] < 2.4 and times["1B shape, llmlite Q4_0"] < 1.25
    float32, q4_0 = (sweep.find("1B shape", name).step_bytes for name in ("PyTorch float32", "llmlite Q4_0"))
    assert 6 < float32 / q4_0 < 7.5


def test_08_the_import_takes_most_of_pytorchs_memory() -> None:
    assert "Which of them takes the most private memory in PyTorch?" in text("08")
    found = timeline.load(resources.data_path("samples/memory-timeline.jsonl"))
    (torch,) = (each for each in found if each.backend == "torch-f32")
    ends = [torch.at_end_of(stage)[0] for stage, _ in torch.stages]
    grown = dict(zip([stage for stage, _ in torch.stages], np.diff([0, *ends])))
    assert max(grown, key=grown.__getitem__) == "import", grown


def test_08_all_shipped_timelines_are_of_one_machine_and_none_was_held_up() -> None:
    """The first PyTorch timeline was taken beside another program: 24 seconds instead of two."""
    found = timeline.load(resources.data_path("samples/memory-timeline.jsonl"))
    assert len({each.machine for each in found}) == 1
    assert max(each.seconds[-1] for each in found) < 4


NEVER_SAID = {
    "small models lose more": "how much a model loses was measured on one model only",
    "nothing in this file is a program": "a chat template is one",
    "twice the work": "attention's share grows with the text",
    "three matrices, nothing else": "queries and keys are turned by RoPE",
    "because the order of additions": "rounding is larger by far",
}


@pytest.mark.parametrize("claim", NEVER_SAID)
def test_a_claim_that_was_wrong_is_in_no_lesson(claim: str) -> None:
    for path in sorted(SOURCE.glob("*.py")):
        assert claim not in text(path.stem.partition("_")[0]).lower(), f"{path.name}: {NEVER_SAID[claim]}"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("02", "This says nothing yet about rounding *all* weights at once"),
        ("03", "Perplexity can compare different models, but only if they have the same tokenizer"),
        ("05", "each of them looks at all before it, so attention's share grows with the text"),
        ("08", "Rounding the weights to Q4_0 changes the predictions much more"),
        ("08", "On a model as small as `tales` a good part of what you measure is **overhead**"),
    ],
)
def test_a_reservation_that_was_missing_once_is_still_there(number: str, sentence: str) -> None:
    assert sentence in text(number)


def test_numbers_in_a_vector_are_the_head_size_and_never_a_length() -> None:
    assert "**head size**" in text("04")
    for number in ("03b", "04", "05"):
        assert not re.search(r"\blength\b(?! of (time|the text))", text(number)), number
