"""Pre-tokenizers: the regular expressions that cut a text into words before any merge.

The table `PRE_TOKENIZERS` has the values of `tokenizer.ggml.pre` as keys. To add a pre-tokenizer, add a line.

The expressions are data: each was published with its model (`tokenizer.json`). The names are llama.cpp's
(src/llama-vocab.cpp). Several expressions apply one after the other: each cuts the pieces of the one before
it, and text that it doesn't match remains a piece of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmlite.errors import TokenizerError
from llmlite.tokenizers.words import CACHE_WORD_LENGTH, CACHE_WORDS

# English contractions in either case. They are spelled out, because (?i:…) would accept 'ſ as 's.
_CONTRACTIONS = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = rf"(?:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}" + _TAIL
_QWEN2 = rf"(?:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}" + _TAIL
# as qwen2, with combining marks kept on their letters
_QWEN35 = (
    rf"(?:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# a word, which ends before an upper-case letter that follows a lower-case one
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = rf"{_CASED[0]}(?:{_CONTRACTIONS})?|{_CASED[1]}(?:{_CONTRACTIONS})?|\p{{N}}{{1,3}}" + _CASED_TAIL
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}" + _CASED_TAIL
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Cased letters as ranges, because the published expression lists those of one Unicode version.
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ"
    "Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿ"
    "ⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_CJK = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_LETTERS}]+",
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")


_LLAMA3_WORDS = rf"(?:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_SPACES_OF = "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
_JAIS2 = (
    _LLAMA3_WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + _SPACES_OF + r"|\s{1,2}(?!\S)|\s{1}"
)
_SPARK = (
    _DEEPSEEK3[0],
    _DEEPSEEK3[1],
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
    r"\p{N}",
)
_YOUTU = (
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
    rf"{_CASED[0]}(?:{_CONTRACTIONS})?|{_CASED[1]}(?:{_CONTRACTIONS})?|\p{{N}}" + _CASED_TAIL,
)
# A number cut from its end into threes, as commas would. The published \b is Oniguruma's: there, all of \p{N}
# belongs to words, including superscripts, which don't in the `regex` package.
_THOUSANDS = r"\d{1,3}(?=(?:\d{3})*(?![\p{L}\p{M}\p{N}\p{Pc}]))"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_BAILING = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED = _LLAMA3_WORDS + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    rf"(?:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """The rule by which a family of vocabularies cuts text into words.

    Attributes:
        expressions: regular expressions in the syntax of the `regex` package, applied one after the other.
        ignore_merges: whether a word that is a token becomes this token, whatever the merges would give.
        add_bos: whether BOS is added if the file doesn't say.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    @cached_property
    def patterns(self) -> tuple[Any, ...]:
        """The compiled expressions."""
        import regex  # imported when the first text is encoded, because reading a file doesn't need it

        return tuple(regex.compile(expression) for expression in self.expressions)

    def split(self, text: str) -> list[str]:
        """Return the words of a text. Joined, they are the text."""
        if len(self.patterns) == 1:
            return _cut(self.patterns[0], text) if len(text) > 1 else [text]
        return self._rest(text, 0)

    @cached_property
    def _kept(self) -> tuple[dict[str, list[str]], ...]:
        """For each expression, a cache: short piece -> its words by this and the following expressions."""
        return tuple({} for _ in self.patterns)

    def _rest(self, piece: str, level: int) -> list[str]:
        """Return the words of a piece, cut by the expressions from `level` on.

        The words depend on nothing else, and short pieces occur many times, so theirs are cached.
        """
        if len(piece) < 2:
            return [piece]
        kept = self._kept[level]
        short = len(piece) <= CACHE_WORD_LENGTH
        words = kept.get(piece) if short else None
        if words is None:
            words = _cut(self.patterns[level], piece)
            if level + 1 < len(self.patterns):
                words = [word for part in words for word in self._rest(part, level + 1)]
            if short:
                if len(kept) >= CACHE_WORDS:
                    kept.clear()
                kept[piece] = words
        return words


def _cut(pattern: Any, piece: str) -> list[str]:
    words: list[str] = pattern.findall(piece)
    if sum(map(len, words)) == len(piece):
        return words  # most expressions match everything
    words = []
    end = 0
    for match in pattern.finditer(piece):
        if match.start() > end:
            words.append(piece[end : match.start()])
        if match.end() > match.start():
            words.append(match.group())
        end = match.end()
    if end < len(piece):
        words.append(piece[end:])
    return words


def _table() -> dict[str, PreTokenizer]:
    gpt2 = PreTokenizer(expressions=(_GPT2,))
    llama3 = PreTokenizer(expressions=(_LLAMA3,), ignore_merges=True, add_bos=True)
    qwen2 = PreTokenizer(expressions=(_QWEN2,))
    single_digits = PreTokenizer(expressions=(r"\p{N}", _GPT2))
    gpt4o = PreTokenizer(expressions=(_GPT4O,))
    deepseek3 = PreTokenizer(expressions=_DEEPSEEK3)
    groups = {
        "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe "
        "gigachat a.x-4.0 mellum modern-bert exaone4 mpt "
        "olmo jais trillion granite-docling": gpt2,
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": llama3,
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": qwen2,
        "qwen35": PreTokenizer(expressions=(_QWEN35,)),
        "dbrx smaug-bpe chatglm-bpe": PreTokenizer(expressions=(_LLAMA3,)),
        "glm4 glm5": PreTokenizer(expressions=(_LLAMA3,), ignore_merges=True),
        "gpt-4o llama4 kanana2 minimax-m2 talkie": gpt4o,
        "granite-embed-multi-97m": PreTokenizer(expressions=(_GPT4O,), ignore_merges=True),
        "tiny_aya cohere2moe": PreTokenizer(expressions=(_THOUSANDS, _GPT4O)),
        "tekken": PreTokenizer(expressions=(_TEKKEN,), ignore_merges=True, add_bos=True),
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": single_digits,
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4": deepseek3,
        "jais-2": PreTokenizer(expressions=(_JAIS2,)),
        "spark2_5": PreTokenizer(expressions=_SPARK),
        "youtu": PreTokenizer(expressions=_YOUTU, ignore_merges=True),
        "bloom poro-chat gpt3-finnish": PreTokenizer(expressions=(_BLOOM,)),
        "viking": PreTokenizer(expressions=(_BLOOM, r"\p{N}")),
        "bailingmoe bailingmoe2 llada-moe": PreTokenizer(expressions=(_BAILING,)),
        "seed-coder": PreTokenizer(expressions=(_SEED,)),
        "ufakzeka": PreTokenizer(expressions=(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,)),
        "laguna": PreTokenizer(expressions=("[^\n]+|[\n]+", _QWEN2)),
        "exaone-moe": PreTokenizer(expressions=(_EXAONE_MOE,)),
        "minicpm5": PreTokenizer(
            expressions=(r"\p{N}{1,3}", _LLAMA3_WORDS + r"|\p{N}+" + _TAIL), ignore_merges=True
        ),
        "deepseek-llm": PreTokenizer(expressions=_DEEPSEEK_LLM),
        "deepseek-coder": PreTokenizer(expressions=_DEEPSEEK_CODER),
        "falcon": PreTokenizer(expressions=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
        "default": PreTokenizer(expressions=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    }
    return {name: record for names, record in groups.items() for name in names.split()}


PRE_TOKENIZERS: dict[str, PreTokenizer] = _table()


def by_name(name: str) -> PreTokenizer:
    """Return the pre-tokenizer of a name, the value of `tokenizer.ggml.pre`.

    Raises:
        TokenizerError: the name isn't in the table.
    """
    if name not in PRE_TOKENIZERS:
        raise TokenizerError.about(
            "tokenizer.ggml.pre",
            f"unknown pre-tokenizer {name!r:.80}; a wrong one would give wrong tokens. "
            f"Known: {', '.join(sorted(PRE_TOKENIZERS))}",
            expected="the name of a known pre-tokenizer",
            got=f"{name!r:.80}",
        )
    return PRE_TOKENIZERS[name]


def name_of(expressions: Iterable[str], *, ignore_merges: bool) -> str | None:
    """Return the first name in the table for the expressions of a tokenizer.json file, or None."""
    wanted = [_canonical(expression) for expression in expressions]
    for name, record in PRE_TOKENIZERS.items():
        if record.ignore_merges == ignore_merges and [*map(_canonical, record.expressions)] == wanted:
            return name
    return None


def _canonical(expression: str) -> str:
    """Return the same spelling for expressions that cut in the same way."""
    spelled_out = expression.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", f"(?:{_CONTRACTIONS})")
    return spelled_out.removesuffix(r"|\s+")  # unmatched blanks are a piece of their own anyway
