"""How the tasks that are ours score an answer; the harness's own needs packages or a metric of the hub for these sets.

Each function takes a row and what was generated for it (a list of one text) and returns metric -> value.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

UNANSWERABLE = "unanswerable"  # what SQuAD 2.0's prompt takes for "the passage does not say"


def squad(row: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """Score an answer by SQuAD's exact match and F1, the best over the references (arXiv:1806.03822)."""
    return best(results[0], row["answers"]["text"] or [UNANSWERABLE])


def quac(row: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """Score an answer by exact match and word F1, the best over the references (arXiv:1808.07036)."""
    return best(results[0], row["answers"])


def best(answer: str, references: Iterable[str]) -> dict[str, float]:
    """Return exact match and word F1 with the nearest reference, both after SQuAD's normalisation."""
    words = normal(answer)
    scores = [(float(words == normal(reference)), f1(words, normal(reference))) for reference in references]
    return {"exact_match": max(exact for exact, _ in scores), "f1": max(score for _, score in scores)}


def normal(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation and articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(answer: list[str], reference: list[str]) -> float:
    """Return the harmonic mean of precision and recall of words; of no words, whether both have none."""
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))


def quac_questions(dialogues: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per question of QuAC's dialogues, with the questions and answers before it."""
    rows = []
    for dialogue in dialogues:
        history = ""
        originals = dialogue["orig_answers"]["texts"]
        for question, answers, original in zip(
            dialogue["questions"], dialogue["answers"]["texts"], originals, strict=True
        ):
            title = f"{dialogue['wikipedia_page_title']}, {dialogue['section_title']}"
            rows.append(
                {
                    "title": title,
                    "context": dialogue["context"],
                    "history": history,
                    "question": question,
                    "answers": list(answers),
                }
            )
            history += f"Q: {question}\n\nA: {original}\n\n"
    return rows


def math(same: Callable[[str, str], bool]) -> Callable[[Mapping[str, Any], list[str]], dict[str, float]]:
    """Return what scores a solution of MATH by its final answer; `same` tells whether two mean the same."""

    def score(row: Mapping[str, Any], results: list[str]) -> dict[str, float]:
        return {"exact_match": float(same(final_answer(results[0]) or "", final_answer(row["solution"]) or ""))}

    return score


def final_answer(solution: str) -> str | None:
    """Return what follows "The final answer is", or stands in the last box."""
    said = re.search(r"[Tt]he final answer is\s*(.*?)\.? I hope it is correct", solution, re.DOTALL)
    if said:
        return said[1].strip().strip("$")
    start = solution.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for at in range(begin, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[at], 0)
        if depth == 0:
            return solution[begin + 1 : at]
    return None
