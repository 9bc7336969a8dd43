"""Text that fits a form: grammars in GBNF, JSON schemas and regular expressions as masks over tokens.

    grammar = Grammar.from_json_schema(schema)
    constraint = grammar.constrain(tokenizer)
    while True:
        token = sampler(logits, ids, mask=constraint.mask())
        if token in tokenizer.eog_ids:
            break
        constraint.accept(token)

`constraint.finished` tells whether the text may end; end-of-generation tokens are allowed only then.
"""

from llmlite.grammar.constraint import AskedConstraint, Constraint
from llmlite.grammar.grammar import Grammar
from llmlite.grammar.tokens import TokenConstraint

__all__ = ["AskedConstraint", "Constraint", "Grammar", "TokenConstraint"]
