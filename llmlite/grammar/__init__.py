"""Text that fits a form: grammars in GBNF, JSON schemas and regular expressions as masks over tokens."""

from llmlite.grammar.constraint import Constraint

__all__ = ["Constraint"]
