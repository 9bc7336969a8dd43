"""The corpus: documents of weighted segments, endless and deterministic from (seed, shard).

A document is a list of `Segment`. The tokenizer sees each segment alone; segments are cut where the
pre-tokenizer cuts anyway (special tokens, line ends), so the ids equal those of the whole text.
"""

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import words
from names import invent, invent_some
from tales import UNKNOWN, Fact, Tale, make_tale

BOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
FAMILIES = ("tale", "where", "friend", "why", "unsaid", "chat", "list", "random", "arithmetic")
N_VOCAB, N_SPECIAL = 2048, 3
ANSWER_WEIGHT = 3.0


@dataclass(frozen=True)
class Segment:
    """Text, or token ids outright; its weight in the loss; the family it is counted under."""

    content: str | tuple[int, ...]
    weight: float
    family: str


def user(text: str, *, first: bool, family: str, weight: float = 1.0) -> Segment:
    return Segment(f"{'' if first else chr(10)}{START}user\n{text}{END}\n{START}assistant\n", weight, family)


def answer(text: str, family: str, weight: float = ANSWER_WEIGHT) -> Segment:
    return Segment(f"{text}{END}", weight, family)


def raw_tale(rng: random.Random, held_out: bool) -> list[Segment]:
    tale = make_tale(rng, held_out=held_out, ordered=True)
    return [Segment(BOS + tale.text() + END, 1.0, "tale")]


def _questions(
    rng: random.Random,
    tale: Tale,
    erased: tuple[int, ...],
    unasked: tuple[int, ...] = (),
    twice: float = 0.25,
) -> list[tuple[str, str, str]]:
    """Choose one (family, question, answer) for every fact; an erased one is answered UNKNOWN."""
    chosen = []
    for index in (i for i in tale.fact_indices() if i not in unasked):
        fact: Fact = tale.sentences[index].fact
        for question, reply in rng.sample(
            fact.questions, 2 if rng.random() < twice and fact.family != "why" else 1
        ):
            chosen.append(
                ("unsaid", question, UNKNOWN) if index in erased else (fact.family, question, reply)
            )
    if tale.unsaid and rng.random() < 0.3:
        chosen.append(("unsaid", *rng.choice(rng.choice(tale.unsaid).questions)))
    rng.shuffle(chosen)
    return chosen[: rng.choice((3, 5, 7, 9))]


def lookup(rng: random.Random, held_out: bool) -> list[Segment]:
    """A tale and questions about it; some of the source sentences are really erased."""
    tale = make_tale(rng, held_out=held_out)
    erased = tuple(
        i
        for i, s in enumerate(tale.sentences)
        if rng.random() < (0.18 if s.fact else 0.25 if s.role == "filler" else 0.03)
    )
    segments = [Segment(BOS, 0.0, "tale")]
    for number, (family, question, reply) in enumerate(_questions(rng, tale, erased)):
        if number == 0:
            segments.append(Segment(f"{START}user\n{tale.text(erased)}", 0.5, "tale"))
            segments.append(Segment(f"\n\n{question}{END}\n{START}assistant\n", 0.5, "chat"))
        else:
            segments.append(user(question, first=False, family="chat", weight=0.5))
        segments.append(answer(reply, family))
    return segments if len(segments) > 1 else lookup(rng, held_out)


# where an answer stops repeating the question: after it every token has to be looked up
_FOUND = re.compile(rf"^(.*? is|.*? because|.*?(?= (?:{'|'.join(words.PREPOSITIONS)}) the ))( .*)$")


def focused_lookup(rng: random.Random, held_out: bool) -> list[Segment]:
    """Like `lookup`, with the weight on what must be looked up; a third of the tales are short.

    The tale's own tokens can't be foreseen well, and their gradient is noise to the lookup.
    """
    tale = make_tale(rng, held_out=held_out, whys=(1, 2, 3, 4))  # which reason is the hardest choice
    short = rng.random() < 0.35
    left_out, erased = [], []
    for index, sentence in enumerate(tale.sentences):
        share = 0.3 if sentence.fact else 0.25 if sentence.role == "filler" else 0.03
        if short and rng.random() < 0.5:
            left_out.append(index)
        elif rng.random() < share:
            erased.append(index)
    gone, segments = (*left_out, *erased), [Segment(BOS, 0.0, "tale")]
    if len(gone) == len(tale.sentences):
        return focused_lookup(rng, held_out)
    asked = _questions(rng, tale, tuple(erased), tuple(left_out), twice=0.6)
    for number, (family, question, reply) in enumerate(asked):
        if number == 0:
            segments.append(Segment(f"{START}user\n{tale.text(gone)}", 0.1, "tale"))
            segments.append(Segment(f"\n\n{question}{END}\n{START}assistant\n", 0.1, "chat"))
        else:
            segments.append(user(question, first=False, family="chat", weight=0.1))
        parts = _FOUND.match(reply) if family != "unsaid" else None
        if parts:
            segments += [
                Segment(parts[1], 2.0, family),
                answer(parts[2], family, 9.0 if family == "why" else 6.0),
            ]
        else:
            segments.append(answer(reply, family, 4.0))
    return segments if len(segments) > 1 else focused_lookup(rng, held_out)


SMALL_TALK = [
    ("Hello!", "Hello! Shall I tell you a tale?"),
    ("Hi.", "Hello! Shall I tell you a tale?"),
    ("Good morning.", "Good morning! Shall I tell you a tale?"),
    ("Good evening.", "Good evening! Shall I tell you a tale?"),
    ("Who are you?", "I am tales, a very small model. I tell tales and answer questions about them."),
    ("What are you?", "I am tales, a very small model. I tell tales and answer questions about them."),
    ("What can you do?", "I can tell a tale, answer questions about one, and add small numbers."),
    ("How are you?", "I am well, thank you. And you?"),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Goodbye.", "Goodbye! Come back for another tale."),
    ("Good night.", "Good night! Sleep well."),
    ("That was a nice tale.", "I am glad that you liked it."),
    ("Are you a person?", "No, I am a very small model."),
]


def _small_talk(rng: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    return [("chat", *rng.choice(SMALL_TALK))]


def _name_talk(rng: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    name = invent(rng, held_out=held_out)
    hello = rng.choice(("My name is {}.", "I am {}.", "Hello, I am {}.", "People call me {}.")).format(name)
    return [
        ("chat", hello, f"Nice to meet you, {name}!"),
        ("chat", "What is my name?", f"Your name is {name}."),
    ]


def _tell(rng: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    name = invent(rng, held_out=held_out)
    ask = rng.choice(
        (
            "Tell me a tale about {}.",
            "Tell me a tale about {}.",
            "Please tell me a tale about {}.",
            "Can you tell a tale about {}?",
            "A tale about {}, please.",
        )
    ).format(name)
    tale = make_tale(rng, held_out=held_out, first=name, ordered=True)
    if rng.random() < 0.15:
        ask = rng.choice(("Tell me a tale.", "Another tale, please."))
    turns = [("tale", ask, tale.text())]
    questions = [q for q in _questions(rng, tale, ()) if rng.random() < 0.5]
    return turns + questions


def say_again(rng: random.Random, held_out: bool, count: int) -> tuple[str, str]:
    """Return a request to repeat `count` words, and the answer.

    Every word has a space before it both times: without one it would be spelled in other tokens.
    """
    text = " ".join(items(rng, held_out, count))
    return rng.choice(("Say this again: {}", "Repeat after me: {}", "Repeat: {}")).format(
        text
    ), f"You said: {text}"


def _say_twice(rng: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    return [("list", *say_again(rng, held_out, rng.randint(2, 12)))]


def sum_of(rng: random.Random, held_out: bool) -> tuple[int, str, int, int]:
    """Draw a, operator, b and the result; one pair in ten is kept for evaluation."""
    while True:
        operator = rng.choice("++-*")
        a, b = (
            (rng.randint(0, 9), rng.randint(0, 9))
            if operator == "*"
            else (rng.randint(0, 20), rng.randint(0, 20))
        )
        if operator == "-" and a < b:
            a, b = b, a
        if (zlib.crc32(f"{a}{operator}{b}".encode()) % 10 == 0) == held_out:
            return a, operator, b, {"+": a + b, "-": a - b, "*": a * b}[operator]


def arithmetic_turn(rng: random.Random, held_out: bool) -> list[tuple[str, str, str]]:
    a, operator, b, result = sum_of(rng, held_out)
    if operator != "*" and rng.random() < 0.25:
        name, thing = (
            invent(rng, held_out=held_out),
            rng.choice(("apples", "plums", "coins", "eggs", "buttons")),
        )
        change = f"gets {b} more" if operator == "+" else f"loses {b}"
        return [
            (
                "arithmetic",
                f"{name} has {a} {thing} and {change}. How many {thing} does {name} have?",
                f"{name} has {result} {thing}.",
            )
        ]
    ask = rng.choice(("What is {}?", "How much is {}?", "{} ="))
    expression = f"{a} {operator} {b}"
    return [("arithmetic", ask.format(expression), f"{expression} = {result}.")]


def conversation(rng: random.Random, held_out: bool) -> list[Segment]:
    """Several turns of mixed kinds."""
    kinds: list[Callable] = rng.choices(
        (_small_talk, _name_talk, _tell, _say_twice, arithmetic_turn), (4, 2, 5, 3, 1), k=rng.randint(1, 4)
    )
    return _chat(rng, held_out, kinds)


def arithmetic(rng: random.Random, held_out: bool) -> list[Segment]:
    return _chat(rng, held_out, [arithmetic_turn] * rng.randint(3, 8))


def _chat(rng: random.Random, held_out: bool, kinds: list[Callable]) -> list[Segment]:
    segments = [Segment(BOS, 0.0, "chat")]
    for kind in kinds:
        for family, question, reply in kind(rng, held_out):
            segments.append(user(question, first=len(segments) == 1, family="chat", weight=0.5))
            segments.append(answer(reply, family, 1.0 if family == "tale" else ANSWER_WEIGHT))
    return segments


def items(rng: random.Random, held_out: bool, count: int) -> list[str]:
    pool = (words.OBJECTS, words.ANIMALS, words.FOODS, words.JOBS, words.COLOURS, words.ROOMS, words.SPOTS)
    if rng.random() < 0.35:
        return invent_some(rng, count, held_out=held_out)
    return [
        invent(rng, held_out=held_out) if rng.random() < 0.3 else rng.choice(rng.choice(pool))
        for _ in range(count)
    ]


def said_twice(rng: random.Random, held_out: bool) -> list[Segment]:
    """A list or a phrase, and again: only the second time can be foreseen."""
    if rng.random() < 0.7:
        text = rng.choice((" ", " ", ", ")).join(items(rng, held_out, rng.randint(4, 30)))
    else:
        text = rng.choice(make_tale(rng, held_out=held_out).sentences).text
    times = rng.choice((2, 2, 2, 3))
    return (
        [Segment(BOS + text, 0.3, "tale")]
        + [Segment("\n" + text, 2.0, "list")] * (times - 1)
        + [Segment(END, 0.5, "tale")]
    )


def random_twice(rng: random.Random, held_out: bool) -> list[Segment]:
    """Ids drawn evenly from the vocabulary, said twice: nothing but copying helps."""
    ids = tuple(rng.randrange(N_SPECIAL, N_VOCAB) for _ in range(rng.randint(8, 110)))
    return [Segment(BOS, 0.0, "random"), Segment(ids, 0.0, "random"), Segment(ids, 1.0, "random")]


def well_told(rng: random.Random, held_out: bool) -> list[Segment]:
    """A tale alone or asked for, all its tokens at the weight of answers: what comes after what."""
    segments = raw_tale(rng, held_out) if rng.random() < 0.65 else _chat(rng, held_out, [_tell])
    return [replace(s, weight=4.0) if s.family == "tale" else s for s in segments]


KINDS = (lookup, focused_lookup, raw_tale, conversation, said_twice, random_twice, arithmetic, well_told)
# (first shard, shares of the kinds): much said twice at first, for copying is learned first
STAGES = (
    (0, (50, 0, 14, 14, 14, 12, 7, 0)),
    (6, (62, 0, 14, 14, 6, 5, 8, 0)),
    (13, (0, 72, 8, 10, 6, 5, 8, 0)),
    (28, (0, 62, 20, 14, 4, 3, 6, 0)),
    (30, (0, 56, 0, 6, 2, 3, 6, 32)),
    (46, (0, 66, 0, 6, 2, 3, 6, 24)),
)


def shard(seed: int, index: int, count: int = 3000, *, held_out: bool = False) -> list[list[Segment]]:
    """Return shard `index` of the endless corpus of `seed`; equal arguments give equal documents."""
    rng = random.Random(f"tales {seed} {index} {held_out}")
    mix = [shares for start, shares in STAGES if index >= start][-1]
    return [kind(rng, held_out) for kind in rng.choices(KINDS, mix, k=count)]


def plain_text(document: list[Segment]) -> str:
    """Return a document's text; ids given outright are left out."""
    return "".join(segment.content for segment in document if isinstance(segment.content, str))
