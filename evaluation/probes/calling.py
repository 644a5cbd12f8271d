"""Two tools: how a call is found in what a model writes, and what it returns."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .matching import words_of

CALL = re.compile(r"\b(calculator|search)\s*\(", re.IGNORECASE)
LONG = 200  # characters of an expression
OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@dataclass(frozen=True)
class Call:
    """A call of a tool; `end` is where it ends in the text."""

    tool: str
    argument: str
    end: int


def find_call(text: str) -> Call | None:
    """Return the first call of a text whose brackets are closed."""
    for match in CALL.finditer(text):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if depth == 0:
                return Call(match[1].lower(), text[match.end() : place].strip().strip("\"'").strip(), place + 1)
    return None


def run_call(call: Call, documents: Sequence[str]) -> tuple[str, bool]:
    """Return what a tool says, and whether it could do what it was asked."""
    if call.tool == "calculator":
        value = calculate(call.argument)
        return ("not a calculation", False) if value is None else (value, True)
    found = search(call.argument, documents)
    return ("nothing found", False) if found is None else (found, True)


def calculate(expression: str) -> str | None:
    """Return the value of an expression of + - * / and brackets; None where it is none, or has no value."""
    text = expression.replace("×", "*").replace("÷", "/").replace(",", "").replace("$", "").rstrip("=? ")
    if len(text) > LONG:
        return None
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.10g}"


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    raise ValueError("not arithmetic")


def search(query: str, documents: Sequence[str]) -> str | None:
    """Return the document that shares most with a query, rare words counting more; the first of several; None: no word."""
    words = [set(words_of(document)) for document in documents]
    count = Counter(word for own in words for word in own)
    wanted = sorted(set(words_of(query)))
    scores = [sum(math.log(1 + len(words) / count[word]) for word in wanted if word in own) for own in words]
    best = max(scores, default=0.0)
    return documents[scores.index(best)] if best > 0 else None
