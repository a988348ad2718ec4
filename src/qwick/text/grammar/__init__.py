"""Structured output: an answer held to a JSON schema, a regular expression, a grammar, a tool call.

A `Grammar` is plain data and travels with its request. A `Vocabulary` is a tokenizer as llguidance
sees it, built once where the engine runs; it makes a `Matcher` of a grammar, the state of one
answer, which says for each token what may follow.
"""

from __future__ import annotations

from qwick.text.grammar.grammar import Grammar
from qwick.text.grammar.matcher import Matcher
from qwick.text.grammar.vocabulary import Vocabulary

__all__ = ["Grammar", "Matcher", "Vocabulary"]
