"""Public sets of preferences as our rows. Every function says which fields of a raw row it reads; no other field matters.

Where a set says how sure its raters were, that becomes the rating, by thresholds of ours (the sets have scales of their
own, the paper four words); where it does not, the pair is unrated. What nothing can be learned from in a pair (equal or
empty answers, an unsafe one chosen over a safe one) is left out where pairs are read (`faults`), and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llamatrain.data.converting import Convert, asked, checked, identity, message, ranked_pairs, rated, told, whole
from llamatrain.data.dialogue_sets import in_use, joined, speaker
from llamatrain.data.files import Row
from llamatrain.data.skipped import LeftOut
from llamatrain.errors import UserError, show

_TURN = re.compile(r"\n\n(Human|Assistant):")
SHP_RATIO = (4.0, 2.0, 1.25)  # of votes; from 2 on its authors call a preference strong
WEBGPT_SCORE = (0.75, 0.5, 0.25)  # of 1
SUMMARIZE_STEPS = (4.0, 3.0, 2.0)  # away from the middle of nine
STACKEXCHANGE_SCORE = (3.0, 2.0, 1.0)  # of log2(1 + votes): eight, four and two times as many
ULTRAFEEDBACK_SCORE = (4.0, 2.0, 1.0)  # of 10


# --- Anthropic's transcripts -------------------------------------------------------------------------------------


def hh_rlhf(fixed: str | None) -> dict[str, Convert]:
    """Return the adapters of transcripts `chosen` and `rejected`, which part at the last answer; a kind, or the name's."""

    def preference(row: Row, source: str) -> Iterator[Row]:
        messages, chosen, rejected = _hh_pair(row)
        kind = fixed or _hh_kind(source)
        yield {"messages": messages, "chosen": chosen, "rejected": rejected, "kind": kind, "source": "hh_rlhf"}

    def prompt(row: Row, source: str) -> Iterator[Row]:
        messages, _, _ = _hh_pair(row)
        adversarial = (fixed or _hh_kind(source)) == "safety"
        named = f"hh_rlhf-{identity(messages)}"
        yield {"id": named, "messages": messages, "source": "hh_rlhf", "is_adversarial": adversarial}

    def dialogue(row: Row, source: str) -> Iterator[Row]:
        adversarial = (fixed or _hh_kind(source)) == "safety"
        messages = _transcript(row["chosen"])
        yield {"messages": messages, "source": "hh_rlhf", "is_adversarial": adversarial, "loss": "last"}

    return {"preference": preference, "prompt": prompt, "dialogue": dialogue, "document": told(dialogue)}


def _transcript(text: str) -> list[Row]:
    """Return the messages of a transcript, of which the last is an answer."""
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise UserError(f"found {show(text)}, need a transcript that begins with '\\n\\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [message(roles[role], content) for role, content in zip(parts[1::2], parts[2::2], strict=True)]
    if messages[-1]["role"] != "assistant":
        raise LeftOut("a transcript ends with the user")
    return checked(messages)


def _hh_pair(row: Row) -> tuple[list[Row], str, str]:
    """Return the shared messages and the two answers."""
    chosen, rejected = _transcript(row["chosen"]), _transcript(row["rejected"])
    if chosen[:-1] != rejected[:-1]:
        raise LeftOut("the two transcripts part before the last answer")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _hh_kind(source: str) -> str:
    name = source.lower()
    if "harmless" in name or "red-team" in name:
        return "safety"
    if "helpful" in name:
        return "helpfulness"
    raise UserError(
        f"{source!r} does not say 'helpful' or 'harmless'; need the prefix hh_rlhf_helpfulness: or hh_rlhf_safety:"
    )


# --- votes and ranks ---------------------------------------------------------------------------------------------


def oasst_preferences(row: Row, source: str) -> Iterator[Row]:
    """Read an OpenAssistant tree: every two answers to the same messages that annotators ranked (`rank`, 0 is best).

    Ranks say which is better, not by how much: unrated. Only English.
    """
    found = False
    if not in_use(row["prompt"]):
        raise LeftOut("the prompt is deleted or not English")
    for messages, replies in _questions([], row["prompt"]):
        answers = [(-float(reply["rank"]), reply["text"].strip()) for reply in replies if reply.get("rank") is not None]
        if len({rank for rank, _ in answers}) > 1 and _usable(messages):
            found = True
            for pair in ranked_pairs(messages, answers):
                yield _helpful(pair, "oasst")
    if not found:
        raise LeftOut("no two answers are ranked differently")


def _questions(before: list[Row], node: Row) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield the messages up to every question of a tree, and the replies to it."""
    messages = [*before, message(speaker(node["role"]), node["text"])]
    replies = [reply for reply in node.get("replies") or () if in_use(reply)]
    if messages[-1]["role"] == "user":
        yield messages, replies
    for reply in replies:
        yield from _questions(messages, reply)


def _usable(messages: list[Row]) -> bool:
    try:
        return bool(checked(messages))
    except LeftOut:
        return False


def shp(row: Row, source: str) -> Iterator[Row]:
    """Read Stanford SHP: `history` (a post), comments `human_ref_A` and `human_ref_B`, `labels` (1: A is preferred).

    `score_ratio`, the preferred one's votes by the other's, becomes the rating.
    """
    prefers_a = whole(row["labels"], 0, 1)
    texts = row["human_ref_A"].strip(), row["human_ref_B"].strip()
    ratio = float(row["score_ratio"])
    if not ratio > 0:
        raise UserError(f"field 'score_ratio': found {show(row['score_ratio'])}, need a number above 0")
    pair = {"messages": asked(row["history"]), "chosen": texts[1 - prefers_a], "rejected": texts[prefers_a]}
    yield _helpful({**pair, "apart": max(ratio, 1 / ratio)}, "shp", SHP_RATIO)


def stackexchange(row: Row, source: str) -> Iterator[Row]:
    """Read a StackExchange `question` and its `answers` with `text` and `pm_score`: the best against every other.

    `pm_score` is log2(1 + votes), plus one where the asker accepted it: the difference becomes the rating. Texts are
    HTML, as the set has them.
    """
    answers = [(float(one["pm_score"]), one["text"].strip()) for one in row["answers"]]
    for pair in ranked_pairs(asked(row["question"]), answers, best_only=True):
        yield _helpful(pair, "stackexchange", STACKEXCHANGE_SCORE)


# --- comparisons by people ---------------------------------------------------------------------------------------


def webgpt(row: Row, source: str) -> Iterator[Row]:
    """Read OpenAI's WebGPT comparisons: `question.full_text`, `answer_0`, `answer_1`, and `score_0` from -1 to 1.

    So its card on the hub has them. The score is the strength of the preference for the first: its size becomes the rating. At 0 there is no preference.
    """
    score = float(row["score_0"])
    if score == 0:
        raise LeftOut("the raters prefer neither answer")
    answers = [row["answer_0"].strip(), row["answer_1"].strip()]
    chosen, rejected = answers if score > 0 else reversed(answers)
    pair = {"messages": asked(row["question"]["full_text"]), "chosen": chosen, "rejected": rejected}
    yield _helpful({**pair, "apart": abs(score)}, "webgpt", WEBGPT_SCORE)


def summarize(row: Row, source: str) -> Iterator[Row]:
    """Read OpenAI's summaries: `info` (`title`, `post` or `article`), two `summaries` with `text`, `choice` (0 or 1).

    `extra.confidence`, where it is given, is read as a scale from 1 (surely the first) to 9 (surely the second): how far it
    is from the middle becomes the rating. That is our reading, unverified: what the number means is not said where the set is
    published (the README of openai/summarize-from-feedback), whose one row has confidence 8 and choice 1. Where it
    contradicts the choice, as it would on another scale, the pair is unrated.
    """
    info, choice = row["info"], whole(row["choice"], 0, 1)
    text = info.get("post") or info.get("article")
    texts = [summary["text"].strip() for summary in row["summaries"]]
    confidence = (row.get("extra") or {}).get("confidence")
    pair: Row = {
        "messages": asked(joined("Summarize this text.", info.get("title"), text)),
        "chosen": texts[choice],
        "rejected": texts[1 - choice],
    }
    steps = 0 if confidence is None else (confidence - 5) * (1 if choice else -1)
    known = confidence is not None and 0 <= steps <= 4
    yield _helpful({**pair, "apart": float(steps)}, "summarize", SUMMARIZE_STEPS if known else None)


def pku_saferlhf(row: Row, source: str) -> Iterator[Row]:
    """Read PKU-SafeRLHF: `prompt`, `response_0`, `response_1`, each `is_response_N_safe`; two preferences a row.

    `better_response_id` is the more helpful one whatever harm it does, `safer_response_id` the less harmful one. Both
    pairs carry the safety labels, so that where an unsafe answer was preferred to a safe one, be it as "the safer", the
    pair is left out and counted. Its prompts are adversarial. Unrated.
    """
    texts = [row["response_0"].strip(), row["response_1"].strip()]
    safe = [row["is_response_0_safe"], row["is_response_1_safe"]]
    for kind, field in (("helpfulness", "better_response_id"), ("safety", "safer_response_id")):
        chosen = whole(row[field], 0, 1)
        yield {
            "messages": asked(row["prompt"]),
            "chosen": texts[chosen],
            "rejected": texts[1 - chosen],
            "kind": kind,
            "chosen_safe": safe[chosen],
            "rejected_safe": safe[1 - chosen],
            "source": "pku_saferlhf",
            "meta": {"is_adversarial": True},
        }


# --- comparisons by models, and test sets ------------------------------------------------------------------------


def ultrafeedback(row: Row, source: str) -> Iterator[Row]:
    """Read UltraFeedback's `instruction` and its `completions` with `response` and `overall_score`, from 1 to 10.

    Every two of different scores make a pair; GPT-4 gave the scores, and their difference becomes the rating.
    """
    answers = [(float(one["overall_score"]), one["response"].strip()) for one in row["completions"]]
    for pair in ranked_pairs(asked(row["instruction"]), answers):
        yield _helpful(pair, "ultrafeedback", ULTRAFEEDBACK_SCORE)


def dialogue_pairs(row: Row, source: str) -> Iterator[Row]:
    """Read dialogues `chosen` and `rejected`, lists of messages that part at the last answer (UltraFeedback binarized).

    `score_chosen` and `score_rejected`, from 1 to 10 where they are given, become the rating.
    """
    sides = [[message(speaker(one["role"]), one["content"]) for one in row[side]] for side in ("chosen", "rejected")]
    if not all(side and side[-1]["role"] == "assistant" for side in sides):
        raise LeftOut("there is no answer")
    chosen, rejected = map(checked, sides)
    if chosen[:-1] != rejected[:-1]:
        raise LeftOut("the two dialogues part before the last answer")
    scores = row.get("score_chosen"), row.get("score_rejected")
    pair: Row = {"messages": chosen[:-1], "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
    if scores[0] is None or scores[1] is None:
        yield _helpful(pair, "dialogue_pairs")
        return
    if scores[0] == scores[1]:
        raise LeftOut("both answers have the same score")
    if scores[0] < scores[1]:
        raise LeftOut("the chosen answer has the lower score")
    yield _helpful({**pair, "apart": scores[0] - scores[1]}, "dialogue_pairs", ULTRAFEEDBACK_SCORE)


def prompt_pairs(row: Row, source: str) -> Iterator[Row]:
    """Read a `prompt` and the answers `chosen` and `rejected`, all texts (the synthetic pairs of GPT-J). Unrated."""
    pair = {"messages": asked(row["prompt"]), "chosen": row["chosen"].strip(), "rejected": row["rejected"].strip()}
    yield _helpful(pair, "prompt_pairs")


def rewardbench2(row: Row, source: str) -> Iterator[Row]:
    """Read RewardBench 2: a `prompt`, lists of answers `chosen` (one, but of Ties more) and `rejected` (three or more).

    Every chosen one against every rejected one; `meta` has the row's `id`, its `subset` and how many different
    `answers` there are, so that best-of-4 can be counted. `Safety` is of that kind, all others are of helpfulness. Unrated.
    """
    if not isinstance(row["chosen"], list) or not isinstance(row["rejected"], list):
        raise UserError("field 'chosen': need a list of texts")
    safety = row["subset"] == "Safety"
    right, wrong = ([answer.strip() for answer in row[side]] for side in ("chosen", "rejected"))
    answers = len(set(right)) + len(set(wrong))
    for chosen in right:
        for rejected in wrong:
            yield {
                "messages": asked(row["prompt"]),
                "chosen": chosen,
                "rejected": rejected,
                "kind": "safety" if safety else "helpfulness",
                "source": "rewardbench2",
                "meta": {"id": str(row["id"]), "subset": row["subset"], "answers": answers},
            }


def _helpful(pair: Row, source: str, thresholds: tuple[float, float, float] | None = None) -> Row:
    """Return a preference for the more helpful answer, rated by how far `apart` the two are where there are thresholds."""
    apart: Any = pair.pop("apart", None)
    rating = {} if thresholds is None else {"rating": rated(apart, thresholds)}
    return {**pair, "kind": "helpfulness", **rating, "source": source}
