"""The scripts that make the bundled model: the corpus is what it claims to be, the counting is right."""

import importlib
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

BUILD = Path(__file__).resolve().parents[2] / "data" / "build"
if not BUILD.exists():
    pytest.skip("data/build is only in the repository, not in the wheel", allow_module_level=True)
OWN = (
    "names",
    "words",
    "tales",
    "corpus",
    "metrics",
    "tokenizer",
    "packing",
    "model",
    "questions",
    "export",
    "evaluate",
)


@pytest.fixture(scope="module", autouse=True)
def build_folder():
    """Import the scripts as they import each other, and leave nothing behind for other tests."""
    sys.path.insert(0, str(BUILD))
    yield
    sys.path.remove(str(BUILD))
    for name in OWN:
        sys.modules.pop(name, None)


def script(name: str):
    return importlib.import_module(name)


def held_out_tales(count: int) -> list:
    rng = random.Random("test")
    return [script("tales").make_tale(rng, held_out=True) for _ in range(count)]


def test_generator_is_deterministic():
    corpus = script("corpus")
    assert corpus.shard(7, 3, 40) == corpus.shard(7, 3, 40)
    assert corpus.shard(7, 3, 40) != corpus.shard(7, 4, 40)
    assert corpus.shard(7, 3, 40) != corpus.shard(8, 3, 40)


def test_training_and_evaluation_names_are_disjoint():
    names, rng = script("names"), random.Random(1)
    trained = {names.invent(rng, held_out=False) for _ in range(4000)}
    kept = {names.invent(rng, held_out=True) for _ in range(4000)}
    assert not trained & kept
    assert len(trained) > 3500


def test_training_documents_hold_no_evaluation_name():
    corpus, names = script("corpus"), script("names")
    text = " ".join(corpus.plain_text(d) for d in corpus.shard(1, 0, 200))
    known = {n for tale in held_out_tales(500) for n in tale.characters}
    assert not known & set(re.findall(r"[A-Z][a-z]+", text))
    assert all(names.is_held_out(n) for n in known)


def test_no_two_tales_are_alike():
    assert len({tale.text() for tale in held_out_tales(500)}) == 500


def test_every_hidden_thing_is_spoken_of_in_one_sentence_only():
    for tale in held_out_tales(200):
        for fact in (s.fact for s in tale.sentences if s.fact and s.fact.family == "where"):
            thing = re.fullmatch(r"Where is the (.+)\?", fact.questions[0][0]).group(1)
            spoken_of = re.compile(rf"\bthe {thing}\b(?! tower)")
            assert sum(bool(spoken_of.search(s.text)) for s in tale.sentences) == 1, (thing, tale.text())


def test_answers_are_derivable_from_their_sentence():
    small = {"is", "was", "because", "friend", "of", "the", "can", "tell"}
    for tale in held_out_tales(200):
        for sentence in (s for s in tale.sentences if s.fact):
            source = {w.lower().removesuffix("'s") for w in re.findall(r"[\w']+", sentence.text)}
            for _, answer in sentence.fact.questions:
                words = {w.lower().removesuffix("'s") for w in re.findall(r"[\w']+", answer)}
                assert words - small <= source, (sentence.text, answer)


def test_questions_of_a_tale_ask_different_things():
    for tale in held_out_tales(300):
        asked = [q for s in tale.sentences if s.fact for q, _ in s.fact.questions]
        assert len(asked) == len(set(asked))


def test_no_sentence_comes_twice_in_a_tale():
    for tale in held_out_tales(300):
        assert len({s.text for s in tale.sentences}) == len(tale.sentences)


def test_erasing_the_source_really_removes_the_answer():
    questions = script("questions")
    for record in questions.records(seed=9, each=10):
        if record["source"] is not None:
            assert record["sentences"][record["source"]] not in questions.prompt_of(record, record["source"])
            assert record["sentences"][record["source"]] in questions.prompt_of(record, record["other"])


def test_sums_are_right_and_kept_apart():
    corpus, rng = script("corpus"), random.Random(2)
    drawn = {part: {corpus.sum_of(rng, part) for _ in range(3000)} for part in (True, False)}
    assert not drawn[True] & drawn[False]
    for a, operator, b, result in drawn[True] | drawn[False]:
        assert result == {"+": a + b, "-": a - b, "*": a * b}[operator] >= 0


def test_tokenizer_gives_every_text_back():
    pytest.importorskip("tokenizers")
    tokenizer = script("tokenizer").load()
    texts = [t.text() for t in held_out_tales(20)] + ["naïve 😀\t\n 12+3", "<|im_start|>user\nHi.<|im_end|>"]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_names_take_several_tokens_and_digits_one_each():
    pytest.importorskip("tokenizers")
    tokenizer, names, rng = script("tokenizer").load(), script("names"), random.Random(3)
    lengths = [len(tokenizer.encode(" " + names.invent(rng, held_out=True)).ids) for _ in range(500)]
    assert min(lengths) >= 2 and max(lengths) <= 7 and 3 <= np.mean(lengths) <= 5
    assert len(tokenizer.encode("4096").ids) == 4


def test_segments_tokenize_like_the_whole_document():
    pytest.importorskip("tokenizers")
    corpus, packing, tokenizer = script("corpus"), script("packing"), script("tokenizer").load()
    documents = [
        d
        for d in corpus.shard(1, 0, 90) + corpus.shard(1, 20, 90)
        if all(isinstance(s.content, str) for s in d)
    ]
    for document, parts in zip(documents, packing.tokenize(tokenizer, documents), strict=True):
        whole = tokenizer.encode(corpus.plain_text(document)).ids
        assert [i for _, ids in parts for i in ids] == whole


def test_rows_begin_with_a_document_and_lose_none():
    pytest.importorskip("tokenizers")
    corpus, packing, tokenizer = script("corpus"), script("packing"), script("tokenizer").load()
    documents = list(corpus.shard(1, 0, 200))
    rows = packing.pack(tokenizer, documents, 513, 0)
    assert (rows.ids[:, 0] == 0).all()
    fitting = [d for d in packing.tokenize(tokenizer, documents) if sum(len(i) for _, i in d) <= 513]
    assert (rows.weights > 0).sum() == sum(len(i) for d in fitting for s, i in d if s.weight > 0)
    assert (rows.weights == 0).mean() < 0.2


def test_first_half_of_a_repetition_of_random_ids_weighs_nothing():
    corpus = script("corpus")
    bos, first, second = corpus.random_twice(random.Random(1), False)
    assert first.content == second.content
    assert (bos.weight, first.weight, second.weight) == (0.0, 0.0, 1.0)


def test_names_right_counts_letter_for_letter():
    count = script("metrics").names_right
    names = ["Tabarel", "Munofix"]
    assert count("Tabarel's friend is Munofix.", "Tabarel's friend is Munofix.", names) == (2, 2)
    assert count("Tabarel's friend is Munofix.", "Tabarel's friend is Munofax.", names) == (1, 2)
    assert count("The key is under the bed.", "Tabarel has it.", names) == (0, 0)


def test_a_loop_is_a_long_sentence_said_twice():
    is_loop = script("metrics").is_loop
    assert is_loop("The cat ate the blue fish. It rained. The cat ate the blue fish.")
    assert not is_loop("It rained. It rained. The cat ate the blue fish.")


def test_strangers_are_capitalised_words_that_nobody_brought_in():
    stays = script("metrics").stays_on_characters
    common = frozenset({"the", "then", "and", "saw"})
    assert stays("The day Tabarel saw Munofix. Then", ["Tabarel", "Munofix"], common)
    assert not stays("The day Tabarel saw Zekulon. Then", ["Tabarel", "Munofix"], common)
    assert not stays("Then and then.", ["Tabarel"], common)


def test_kl_divergence_by_hand():
    kl = script("metrics").kl_divergence
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert kl(np.log(p), np.log(q) + 7)[0] == pytest.approx(expected)
    assert kl(np.log(p), np.log(p))[0] == pytest.approx(0)


def test_copying_attention_reads_the_token_after_the_earlier_occurrence():
    attention = np.zeros((7, 7))  # BOS a b c a b c: "a" at 4 looks at 2, "b" at 5 looks at 3
    attention[4, 2], attention[5, 3] = 1.0, 0.5
    assert script("metrics").copying_attention(attention, 1, 3) == 0.75


@pytest.fixture
def tiny():
    torch = pytest.importorskip("torch")
    model = script("model")
    config = model.Config(n_layer=2, n_ff=256, n_ctx=64)
    return model.Llama(config).initialise(torch.Generator().manual_seed(0)).eval()


def test_cached_generation_equals_whole_passes(tiny):
    torch, judge = pytest.importorskip("torch"), script("evaluate").Judge(tiny)
    encoded = [[0, 50, 60, 70, 80], [0, 90, 91]]
    made = judge._greedy(encoded, 6)
    for prompt, ids in zip(encoded, made, strict=True):
        for n in range(len(ids)):
            with torch.no_grad():
                logits = tiny.logits(tiny(torch.tensor([prompt + ids[:n]])))[0, -1]
            assert logits[ids[n]] >= logits.max() - 1e-4


def test_teacher_forcing_agrees_with_generation(tiny):
    pytest.importorskip("torch")
    judge = script("evaluate").Judge(tiny)
    prompts = ["Who is there?", "Where is the key of the old mill?"]
    answers = judge.generate(prompts, 5)
    forced = judge.is_greedy(prompts, ["The wrong answer"] * 2)
    assert forced == [False, False] and len(answers) == 2


def test_export_reads_back_equal(tiny, tmp_path):
    torch = pytest.importorskip("torch")
    gguf = pytest.importorskip("llmlite.gguf")
    export = script("export")
    torch.save({"config": tiny.config.as_dict(), "model": tiny.state_dict()}, tmp_path / "checkpoint.pt")
    export.export(tmp_path / "checkpoint.pt", tmp_path / "tiny.gguf")
    with gguf.read(tmp_path / "tiny.gguf") as file:
        assert file.metadata["llama.block_count"] == 2
        assert file.metadata["tokenizer.ggml.tokens"][0] == "<|endoftext|>"
        assert set(file.tensors) == set(tiny.state_dict())
        for name, weight in tiny.state_dict().items():
            tensor = file.tensors[name]
            assert tensor.type.name == ("F16" if weight.dim() == 2 else "F32")
            expected = weight.half().float() if weight.dim() == 2 else weight
            np.testing.assert_array_equal(tensor.dequantize(), expected.numpy())
