"""lm-eval asks a running `llmlite serve` the bundled questions: its figures are ours.

`make lm-eval-test` installs lm-eval (half a gigabyte with its needs) in a folder of its own and runs this.
docs/measurements/lm-eval.md has a result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.bench.inputs import open_models
from llmlite.bench.questions import Exam, exam
from tests.support.clients import installed
from tests.support.server import ROOT, Server

pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.conformance]
N_CHOICES = 4
TASKS = {
    "tales_answers": """\
output_type: generate_until
doc_to_target: answer
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 64, temperature: 0}
filter_list:
  - {name: stripped, filter: [{function: remove_whitespace}, {function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "tales_choices": """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
}
HEAD = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: prompt
"""


@pytest.fixture(scope="module")
def model() -> Any:
    return ll.load("tales")


@pytest.fixture(scope="module")
def questions() -> Exam:
    [file] = open_models("tales", ("F16",))
    return exam(file, 1024)


@pytest.fixture(scope="module")
def documents(questions: Exam, model: Any) -> list[dict[str, Any]]:
    """Each question's prompt, answer and choices: the answer among those of the questions after it."""
    answers = [question.answer for question in questions.questions]
    found = []
    for place, question in enumerate(questions.questions):
        others = dict.fromkeys(answers[place:] + answers[:place])
        choices = sorted(list(others)[:N_CHOICES])
        found.append(
            {
                "prompt": model.detokenize(question.ids),
                "answer": question.answer,
                "choices": choices,
                "label": choices.index(question.answer),
            }
        )
    return found


@pytest.fixture(scope="module")
def results(
    documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What lm-eval finds: its metrics, and the samples of each task in order."""
    installed("lm_eval", "lm-eval", "lm-eval-test")
    folder = tmp_path_factory.mktemp("lm_eval")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name=name, data=data) + text, encoding="utf-8")
    server = Server("--quiet")
    arguments = f"model=tales,base_url={server.url}/v1/completions,tokenizer_backend=remote,max_length=1024"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
    command += ["--model_args", arguments, "--tasks", *TASKS, "--include_path", str(folder)]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=os.environ | offline, text=True, capture_output=True, timeout=500
        )
    finally:
        server.end()
    assert ran.returncode == 0, ran.stderr[-3000:]
    [summary] = (folder / "out").rglob("results_*.json")
    found = json.loads(summary.read_text(encoding="utf-8"))["results"]
    for name in TASKS:
        [samples] = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        lines = samples.read_text(encoding="utf-8").splitlines()
        found[name]["samples"] = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    yield found


def test_the_share_of_exact_answers_is_ours(results: dict[str, Any], questions: Exam, model: Any) -> None:
    def ask(_: str, *, ids: list[int], n_gen: int) -> dict[str, Any]:
        generation = model.stream(ids, max_tokens=n_gen, temperature=0)
        list(generation)
        return {"ids": generation.ids}

    right, asked = questions.marks(ask, seconds=1e9)
    assert asked == len(questions.questions) == len(results["tales_answers"]["samples"])
    assert right > 0
    assert results["tales_answers"]["exact_match,stripped"] == pytest.approx(right / asked)


def test_scores_of_choices_and_their_accuracy_are_ours(
    results: dict[str, Any], documents: list[dict[str, Any]], model: Any
) -> None:
    right = 0
    for document, sample in zip(documents, results["tales_choices"]["samples"], strict=True):
        # lm-eval moves white space at the end of a context to its continuation
        n = len(model.tokenizer.encode(document["prompt"].rstrip(), add_special=False))
        scores = []
        for choice, (found, is_greedy) in zip(document["choices"], sample["filtered_resps"], strict=True):
            ids = model.tokenizer.encode(document["prompt"] + choice, add_special=False)
            rows = model.logits(ids)[n - 1 : -1].astype(np.float64)
            rows -= rows.max(1, keepdims=True)
            given = rows[np.arange(len(rows)), ids[n:]] - np.log(np.exp(rows).sum(1))
            scores.append(given.sum())
            assert float(found) == pytest.approx(scores[-1], abs=1e-6)
            assert str(is_greedy) == str(rows.argmax(1).tolist() == ids[n:])
        right += int(np.argmax(scores)) == document["label"]
    assert right > len(documents) / N_CHOICES
    assert results["tales_choices"]["acc,none"] == pytest.approx(right / len(documents))
