"""The grammar of the tales: sentences, and the facts that questions can ask about.

In every statement the key stands before what is asked about it ("the key ... under the bed"): a model
of five layers learns to look forward from a key within minutes, and to look back hardly at all.
A tale is a list of `Sentence`. A fact is stated in exactly one of them, and always with names, never
with a pronoun, so any sentence can be erased without changing what the others say.
"""

import random
from dataclasses import dataclass, field

import words
from names import invent_some

UNKNOWN = "The tale does not say."


@dataclass(frozen=True)
class Fact:
    """Something one sentence states: its family and the (question, answer) pairs about it."""

    family: str  # where, friend or why
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sentence:
    text: str
    role: str  # intro, fact, filler or ending
    fact: Fact | None = None


@dataclass
class Tale:
    sentences: list[Sentence]
    characters: list[str]
    unsaid: list[Fact] = field(default_factory=list)  # askable, but no sentence answers

    def text(self, erased: tuple[int, ...] = ()) -> str:
        return " ".join(s.text for i, s in enumerate(self.sentences) if i not in erased)

    def fact_indices(self) -> list[int]:
        return [i for i, s in enumerate(self.sentences) if s.fact is not None]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" or noun.startswith("honest") else "a ") + noun


class _Supply:
    """Hands out objects and sentence patterns, none twice in one tale.

    Without this, every next sentence would be drawn as if the tale began anew, and a greedy reader of
    such tales learns to tell its favourite sentence for ever.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.left = rng.sample(words.OBJECTS, len(words.OBJECTS))
        self.used: set[tuple[str, int]] = set()

    def take(self) -> str:
        thing = self.left.pop()
        return f"{self.rng.choice(words.COLOURS)} {thing}" if self.rng.random() < 0.5 else thing

    def pick(self, kind: str, texts: list[str]) -> str:
        index = self.rng.choice([i for i in range(len(texts)) if (kind, i) not in self.used])
        self.used.add((kind, index))
        return texts[index]


def _place(rng: random.Random) -> str:
    spot = rng.choice(words.SPOTS)
    if rng.random() < 0.5:
        spot = f"{rng.choice(words.COLOURS)} {spot}"
    place = f"{rng.choice(words.PREPOSITIONS)} the {spot}"
    return place + (f" in the {rng.choice(words.ROOMS)}" if rng.random() < 0.4 else "")


def where_fact(rng: random.Random, name: str, supply: _Supply) -> Sentence:
    """A thing and its place: "Tabarel hid the key under the red bed."."""
    thing, place, time = supply.take(), _place(rng), rng.choice(words.TIMES)
    base, past = rng.choice(
        [
            ("hide", "hid"),
            ("put", "put"),
            ("leave", "left"),
            ("keep", "kept"),
            ("bury", "buried"),
            ("forget", "forgot"),
            ("lay", "laid"),
            ("store", "stored"),
        ]
    )
    text = supply.pick(
        "where",
        [
            f"{name} {past} the {thing} {place}.",
            f"{time}, {name} {past} the {thing} {place}.",
            f"That {name} {past} the {thing} {place} was no secret.",
            f"{time} {name} {past} the {thing} {place}, and told nobody.",
            f"Nobody knew that {name} {past} the {thing} {place}.",
            f"People say that {name} {past} the {thing} {place}.",
            f"{name} had {_a('plan')} and {past} the {thing} {place}.",
            f"In a hurry, {name} {past} the {thing} {place}.",
            f"{name} looked around and {past} the {thing} {place}.",
            f"As for the {thing}, {name} {past} it {place}.",
            f"{name} took the {thing} and {past} it {place}.",
        ],
    )
    is_there = f"The {thing} is {place}."
    did = f"{name} {past} the {thing} {place}."
    return Sentence(
        text,
        "fact",
        Fact(
            "where",
            (
                (f"Where is the {thing}?", is_there),
                (f"Where did {name} {base} the {thing}?", did),
                (f"Can you tell me where the {thing} is?", is_there),
            ),
        ),
    )


def friend_questions(a: str, b: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"Who is {a}'s friend?", f"{a}'s friend is {b}."),
        (f"Who is the friend of {a}?", f"The friend of {a} is {b}."),
    )


def friend_fact(rng: random.Random, a: str, b: str, supply: _Supply) -> Sentence:
    """Who somebody's friend is; it is asked from the side of `a`."""
    time = rng.choice(words.TIMES)
    text = supply.pick(
        "friend",
        [
            f"{a}'s best friend was {b}.",
            f"{a}'s only friend was {b}.",
            f"{a}'s oldest friend was {b}, and so it stayed.",
            f"{time}, {a}'s friend was still {b}.",
            f"The friend of {a} was {b}.",
            f"Everyone knew that {a}'s friend was {b}.",
            f"For many years {a}'s friend had been {b}.",
            f"{a} had one true friend, and that was {b}.",
            f"{a} had a good friend, {b}.",
            f"The friend {a} trusted most was {b}.",
            f"The best friend of {a} was called {b}.",
            f"{a} shared everything with a friend, {b}.",
        ],
    )
    return Sentence(text, "fact", Fact("friend", friend_questions(a, b)))


def _reason(rng: random.Random, supply: _Supply, others: list[str], good: bool) -> str:
    animal, food, room = rng.choice(words.ANIMALS), rng.choice(words.FOODS), rng.choice(words.ROOMS)
    colour, other, number = (
        rng.choice(words.COLOURS),
        rng.choice(others),
        rng.choice(["two", "three", "four", "five", "seven", "ten", "a hundred"]),
    )
    if good:
        return rng.choice(
            [
                f"the {colour} {animal} had come home",
                f"there was {food} for everyone",
                f"the {supply.take()} had been found",
                f"{other} had brought some {food}",
                f"{other} {rng.choice(words.ARRIVALS)}",
                f"the {room} was clean and warm",
                f"the {supply.take()} was finished",
                f"{other} had given away the {supply.take()}",
                f"the {animal} had won {number} prizes",
                f"{other} had praised the {food}",
                f"{number} guests had come to the {room}",
                f"the {animal} liked the {food}",
            ]
        )
    return rng.choice(
        [
            f"the {colour} {animal} had eaten the {food}",
            f"there was no {food} left",
            f"the {supply.take()} was broken",
            f"the {supply.take()} was gone",
            f"{other} {rng.choice(words.ARRIVALS)}",
            f"the {room} had burned down",
            f"{other} had stolen the {supply.take()}",
            f"the {animal} was lost in the {room}",
            f"the {animal} had bitten {other}",
            f"{other} had sold the {colour} {animal}",
            f"the {room} was full of {animal} hair",
            f"the {food} had cost {number} coins",
        ]
    )


ACTIONS = [
    ("stay at home", "stayed at home"),
    ("leave the village", "left the village"),
    ("climb the tower", "climbed the tower"),
    ("run to the river", "ran to the river"),
    ("shout", "shouted"),
    ("cry", "cried"),
    ("laugh", "laughed"),
    ("dance", "danced"),
    ("wait all night", "waited all night"),
    ("close the shop", "closed the shop"),
    ("clap", "clapped"),
    ("sing", "sang"),
    ("walk to town", "walked to town"),
]


def why_fact(rng: random.Random, name: str, others: list[str], supply: _Supply, taken: set[str]) -> Sentence:
    """A mood or a deed and its reason: "Tabarel was sad because the kite was broken."."""
    if rng.random() < 0.65:
        good = rng.random() < 0.4
        mood = rng.choice([m for m in (words.GLAD if good else words.SAD) if m not in taken])
        taken.add(mood)
        state, question = f"was {mood}", f"Why was {name} {mood}?"
    else:
        good = rng.random() < 0.5
        base, state = rng.choice([act for act in ACTIONS if act[1] not in taken])
        taken.add(state)
        question = f"Why did {name} {base}?"
    reason, time = _reason(rng, supply, others, good), rng.choice(words.TIMES)
    text = supply.pick(
        "why",
        [
            f"{name} {state} because {reason}.",
            f"{time}, {name} {state} because {reason}.",
            f"{name} {state}, for {reason}.",
            f"{time} {name} {state}, for {reason}.",
            f"{name} {state}, and the reason was that {reason}.",
            f"{time} {name} {state}, only because {reason}.",
            f"{name} {state}, since {reason}.",
            f"Everyone saw that {name} {state} because {reason}.",
            f"{name} {state}, and all that because {reason}.",
        ],
    )
    return Sentence(text, "fact", Fact("why", ((question, f"{name} {state} because {reason}."),)))


def introduction(rng: random.Random, characters: list[str]) -> list[Sentence]:
    """Bring in every character, in one or two sentences; about 40 % begin "Once upon a time"."""
    place = rng.choice(words.PLACES)
    who = []
    for name, job in zip(characters, rng.sample(words.JOBS, len(characters)), strict=True):
        job = f"{rng.choice(words.ADJECTIVES)} {job}" if rng.random() < 0.4 else job
        who.append(
            rng.choice(
                [
                    f"{_a(job)} called {name}",
                    f"{_a(job)} named {name}",
                    f"{name} the {job}",
                    f"{name}, {_a(job)},",
                ]
            )
        )
    split = len(who) - 1 if len(who) > 2 or rng.random() < 0.4 else len(who)

    def joined(parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]).replace(",,", ",") + " and " + parts[-1]

    first, rest = joined(who[:split]), joined(who[split:]) if who[split:] else ""
    start = rng.choice(
        ["Once upon a time", "Once upon a time", "Long ago", "In the old days", "Once", "Many years ago"]
    )
    tail = first.rstrip(",")
    lines = [
        rng.choice(
            [
                f"{start} there lived {tail} in {place}.",
                f"{start}, in {place}, there lived {tail}.",
                f"{start}, in {place}, lived {tail}.",
                f"{start} {first} lived in {place}.",
                f"This is a tale of {tail} and {place}.",
                f"There was once, in {place}, {tail}.",
                f"{start} there was {place}, and there lived {tail}.",
            ]
        )
    ]
    if rest:
        lines.append(
            rng.choice(
                [
                    f"Not far away lived {rest.rstrip(',')}.",
                    f"In the same place lived {rest.rstrip(',')}.",
                    f"Next door lived {rest.rstrip(',')}.",
                    f"{_capital(rest)} lived nearby.",
                    f"There was also {rest.rstrip(',')}.",
                    f"{_capital(rest)} had come from far away.",
                ]
            )
        )
    return [Sentence(line.replace(",,", ","), "intro") for line in lines]


def filler(rng: random.Random, characters: list[str], supply: _Supply, slot: int | None = None) -> Sentence:
    """A sentence that answers nothing: weather, errands, small talk."""
    if slot == 0 or (slot is None and rng.random() < 0.15):
        return Sentence(supply.pick("weather", words.WEATHER), "filler")
    a, b = rng.sample(characters, 2)
    food, animal, animal2 = rng.choice(words.FOODS), *rng.sample(words.ANIMALS, 2)
    room, room2 = rng.sample(words.ROOMS, 2)
    time, verb, colour = rng.choice(words.TIMES), rng.choice(words.VERBS_PAST), rng.choice(words.COLOURS)
    thing = (
        supply.take() if rng.random() < 0.3 else f"{colour} {rng.choice(['coat', 'shirt', 'rug', 'sledge'])}"
    )
    texts = [
        f"{time}, {a} went to the {room} with {_a(animal)}.",
        f"{a} {verb} the {thing} and {rng.choice(words.VERBS_PAST)} the {room}.",
        f"{a} {verb} {_a(thing)} for {b}.",
        f'"Good morning," said {a} to {b}.',
        f"{a} asked {b} for some {food}.",
        f"{time}, {_a(animal)} ran through the {room}.",
        f"{a} and {b} ate {food} in the {room}.",
        f"{a} had {_a(animal)} that was afraid of every {animal2}.",
        f'"Have you seen the {animal}?" asked {b}.',
        f"The {colour} {animal} slept in the {room} and dreamed of {food}.",
        f"{time} {a} counted the stars and {b} counted the {animal} tracks.",
        f"{a} walked from the {room} to the {room2} and back.",
        f"In the {room} there was nothing but {food} and {_a(animal)}.",
        f"{a} told {b} about the {room}.",
        f"{b} cooked {food}, and {a} set the table.",
        f"{time}, {a} sang a song about {_a(animal)} and {_a(animal2)}.",
        f'"There is nothing better than {food}," said {a}.',
        f"{b} laughed and ran after the {animal}.",
        f"The people of the place loved {food} and feared the {animal}.",
        f"{a} opened the door of the {room} and saw {b}.",
        f"{time} the {animal} followed {a} as far as the {room}.",
        f"{b} did not like {food} at all.",
    ]
    # a slot has every fourth pattern to itself
    text = supply.pick("filler", texts) if slot is None else supply.pick(f"slot {slot}", texts[slot - 1 :: 4])
    return Sentence(text, "filler")


def _in_any_order(
    rng: random.Random,
    order: list[str],
    characters: list[str],
    supply: _Supply,
    taken: set[str],
    whys: tuple[int, ...],
) -> list[Sentence]:
    # who is asked about is nobody else's friend, so an erased friendship leaves no hint behind
    body = [friend_fact(rng, order[0], order[1], supply)]
    if len(order) > 2 and rng.random() < 0.6:
        body.append(friend_fact(rng, order[2], order[3] if len(order) == 4 else order[1], supply))
    body += [where_fact(rng, rng.choice(characters), supply) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    for _ in range(rng.choice(whys)):
        name = rng.choice(characters)
        body.append(why_fact(rng, name, [n for n in characters if n != name], supply, taken))
    body += [filler(rng, characters, supply) for _ in range(rng.choice((1, 2, 3, 4)))]
    rng.shuffle(body)
    return body


def _in_order(rng: random.Random, order: list[str], supply: _Supply, taken: set[str]) -> list[Sentence]:
    """Weather, errand, friend, errand, thing, errand, reason, errand; errands may be left out.

    After each kind comes another, so that even the likeliest continuation moves on and never circles.
    """
    body = [filler(rng, order, supply, slot=0)] if rng.random() < 0.8 else []
    makers = (
        lambda: friend_fact(rng, order[0], order[1], supply),
        lambda: where_fact(rng, rng.choice(order), supply),
        lambda: why_fact(rng, order[0], order[1:], supply, taken),
    )
    for slot, make in enumerate(makers, 1):
        if rng.random() < 0.85:
            body.append(filler(rng, order, supply, slot=slot))
        body.append(make())
    if rng.random() < 0.85:
        body.append(filler(rng, order, supply, slot=4))
    return body


def make_tale(
    rng: random.Random,
    *,
    held_out: bool,
    first: str | None = None,
    whys: tuple[int, ...] = (1, 2, 2),
    ordered: bool = False,
) -> Tale:
    """Compose one tale; `first` fixes the first character's name, `whys` the choices for how many reasons,
    `ordered` gives every kind of sentence its place.

    Returns:
        2 to 4 characters brought in at the start, 3 to 6 facts and 1 to 4 fillers in any order, an ending.
    """
    count = rng.choices((2, 3, 4), (3, 5, 2))[0]
    characters = invent_some(rng, count, held_out=held_out)
    if first is not None:
        characters = [first] + [n for n in characters if n[:3] != first[:3]]
        if len(characters) < 2:
            return make_tale(rng, held_out=held_out, first=first, whys=whys, ordered=ordered)
    supply, taken = _Supply(rng), set()
    order = rng.sample(characters, len(characters))
    if ordered:
        body = _in_order(rng, order, supply, taken)
    else:
        body = _in_any_order(rng, order, characters, supply, taken, whys)
    tale = Tale(
        introduction(rng, characters) + body + [Sentence(rng.choice(words.ENDINGS), "ending")], characters
    )
    tale.unsaid = [
        Fact("friend", tuple((q, UNKNOWN) for q, _ in friend_questions(name, "")))
        for name in order[2:]
        if not _has_friend(tale, name)
    ]
    return tale


def _has_friend(tale: Tale, name: str) -> bool:
    return any(
        s.fact and s.fact.family == "friend" and any(name in q + answer for q, answer in s.fact.questions)
        for s in tale.sentences
    )
