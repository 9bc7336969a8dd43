"""A grammar, from any of its three languages, and the constraints made from it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

from llmlite.grammar import gbnf, json_schema, regex
from llmlite.grammar.automaton import Automaton
from llmlite.grammar.expressions import Expression, Rules
from llmlite.grammar.matcher import Matcher
from llmlite.grammar.tokens import TokenConstraint
from llmlite.grammar.trie import TokenizerLike, TokenTrie
from llmlite.system.locks import fork_safe

_tries: weakref.WeakKeyDictionary[TokenizerLike, TokenTrie] = weakref.WeakKeyDictionary()
_lock = fork_safe(threading.Lock())


class Grammar:
    """The form that a text must have.

        grammar = Grammar('root ::= "yes" | "no"')
        grammar = Grammar.from_json_schema({"type": "object", "properties": {"age": {"type": "integer"}}})
        grammar = Grammar.from_regex(r"\\d{4}-\\d{2}-\\d{2}")
        constraint = grammar.constrain(model.tokenizer)

    Args:
        text: rules in llama.cpp's language (GBNF).
        root: name of the rule that a text must fit.

    Raises:
        GrammarError: the grammar is malformed, left-recursive, too large, or no text fits it.
    """

    def __init__(self, text: str, *, root: str = "root") -> None:
        self._prepare(gbnf.parse(text), root)

    @classmethod
    def from_json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Grammar:
        """Make a grammar for JSON that is valid under a schema; {} allows any JSON.

        Args:
            schema: the result of json.loads, or its text. `llmlite.grammar.json_schema` lists the supported
                parts.

        Raises:
            GrammarError: a part of the schema is wrong or not supported; names the place.
        """
        return cls._made(json_schema.rules_of(schema))

    @classmethod
    def from_regex(cls, pattern: str) -> Grammar:
        """Make a grammar for the texts that a pattern matches as a whole.

        Args:
            pattern: a pattern in ECMAScript's syntax. `llmlite.grammar.regex` lists the supported parts.

        Raises:
            GrammarError: the pattern is malformed or not supported; names the character.
        """
        return cls._made({"root": regex.parse(pattern)})

    @classmethod
    def _made(cls, rules: Mapping[str, Expression]) -> Grammar:
        grammar = cls.__new__(cls)
        grammar._prepare(rules, "root")
        return grammar

    def _prepare(self, rules: Mapping[str, Expression], root: str) -> None:
        self._rules = Rules(rules, root)
        self._automaton = Automaton(self._rules)
        self._matchers: weakref.WeakKeyDictionary[TokenTrie, Matcher] = weakref.WeakKeyDictionary()
        self._lock = fork_safe(threading.Lock())  # texts of several threads may have one grammar

    def constrain(self, tokenizer: TokenizerLike) -> TokenConstraint:
        """Return a constraint for one text. Results for a vocabulary are kept for the next text."""
        trie = _trie_of(tokenizer)
        with self._lock:
            matcher = self._matchers.get(trie)
            if matcher is None:
                matcher = self._matchers[trie] = Matcher(Automaton(self._rules), trie)
        return TokenConstraint(matcher)

    def accepts(self, text: str | bytes) -> bool:
        """Return whether a whole text fits.

        Raises:
            GrammarError: the text has too many readings.
        """
        automaton = self._automaton
        readings = automaton.start()
        for byte in text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text:
            readings = automaton.step(readings, int(automaton.class_of[byte]))
            if not readings:
                return False
        automaton.forget()
        return automaton.end in readings

    def __repr__(self) -> str:
        return f"Grammar({len(self._rules.rules)} rules)"


def _trie_of(tokenizer: TokenizerLike) -> TokenTrie:
    with _lock:
        found = _tries.get(tokenizer)
        if found is None:
            found = _tries[tokenizer] = TokenTrie(tokenizer)
        return found
