"""Invented names: a few hundred thousand, cut into a training and an evaluation part by a checksum.

The cut depends on the name alone, so no list has to be kept and no seed can mix the two parts.
"""

import random
import zlib

ONSETS = "b d f g h j k l m n p r s t v w z br dr fl gr kl kr pl sk st tr".split()
VOWELS = "a e i o u".split()
CODAS = "l m n r s k t nd x".split()
EVALUATION_SHARE = 10  # one name of ten is kept for evaluation


def is_held_out(name: str) -> bool:
    """Say whether a name belongs to the evaluation part."""
    return zlib.crc32(name.encode()) % EVALUATION_SHARE == 0


def invent(rng: random.Random, *, held_out: bool) -> str:
    """Invent one name of three or four syllables, spelled in several tokens."""
    while True:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((2, 3, 3)))]
        syllables[-1] += rng.choice(CODAS) if rng.random() < 0.8 else ""
        if len(syllables) == 2:  # short ones get a third vowel, so that they too take several tokens
            syllables.append(rng.choice(("o", "a", "in", "el", "us", "iv", "ek", "um")))
        name = "".join(syllables).capitalize()
        if is_held_out(name) == held_out:
            return name


def invent_some(rng: random.Random, count: int, *, held_out: bool) -> list[str]:
    """Invent names that differ from each other in their first three letters too."""
    names: list[str] = []
    while len(names) < count:
        name = invent(rng, held_out=held_out)
        if all(name[:3] != other[:3] for other in names):
            names.append(name)
    return names
