"""Every task of the suite loads rows of its data set's published form, and scores them.

A model that knows what it is told answers one of two rows rightly: the score is a half. The real rows of these sets were
not at hand, but for six of them (test_harness.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from evaluation.benchmarks import harness
from evaluation.benchmarks.config import BenchmarkConfig
from evaluation.benchmarks.suites import Group, read_suite
from evaluation.benchmarks.table import counts
from llamatrain.errors import MissingFileError, UserError

from .stories import write
from .test_harness import config

Rows = list[dict[str, Any]]
FEW = [f"What is example {number}?" for number in range(10)]  # rows that examples are drawn from


class Told(harness.Model):
    """Says after a context what it was told of the question in it that stands last."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts
        self.shortened = set()
        self.asked: list[str] = []
        self._rank, self._world_size = 0, 1

    def says(self, context: str) -> str | None:
        self.asked.append(context)
        at = {question: context.rfind(question) for question in self.facts}
        last = max(at, key=lambda question: at[question])
        return self.facts[last] if at[last] >= 0 else None

    def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
        said = [(self.says(request.args[0]), request.args[1].strip()) for request in requests]
        return [(0.0, True) if answer == own else (-5.0, False) for answer, own in said]

    def generate_until(self, requests: Any) -> list[str]:
        return [self.says(request.args[0]) or "" for request in requests]


def lettered(*texts: str) -> dict[str, list[str]]:
    return {"label": list("ABCDE"[: len(texts)]), "text": list(texts)}


def csqa(question: str, key: str) -> dict[str, Any]:
    return {"id": "1", "question": question, "choices": lettered("a", "b", "c", "d", "e"), "answerKey": key}


def boxed(problem: str, answer: str) -> dict[str, Any]:
    return {"problem": problem, "level": "Level 1", "type": "Algebra", "solution": rf"So $\boxed{{{answer}}}$."}


def agieval(query: str, gold: int) -> dict[str, Any]:
    return {
        "query": f"Q: {query}\nA: Among A through B, the answer is",
        "choices": ["(A)one", "(B)two"],
        "gold": [gold],
    }


def squad(question: str, *texts: str) -> dict[str, Any]:
    answers = {"text": list(texts), "answer_start": [0] * len(texts)}
    return {"id": question, "title": "Dogs", "context": "Dogs run.", "question": question, "answers": answers}


ADD = {
    "task_id": 11,
    "text": "Write add.",
    "code": "",
    "test_list": ["assert add(1, 2) == 3"] * 3,
    "test_setup_code": "",
}
HARNESS_GROUPS = {"mmlu": "cais/mmlu", "bbh": "SaylorTwift/bbh"}
# Task -> its data set, the split that is measured with two rows, another split with rows for examples, what is said.
CASES: dict[str, tuple[str, str, Rows, str, Rows, dict[str, str]]] = {
    "social_iqa": (
        "lighteval/siqa", "validation",
        [{"context": "Tom fell.", "question": f"{who}?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"} for who in ("Who", "Why")],
        "", [], {"Who?": "b", "Why?": "c"},
    ),
    "hellaswag": (
        "Rowan/hellaswag", "validation",
        [{"activity_label": "Run", "ctx_a": f"{who} runs.", "ctx_b": "then he", "endings": ["stops.", "flies."], "label": "0"} for who in ("Tom", "Max")],
        "", [], {"Tom runs": "stops.", "Max runs": "flies."},
    ),
    "winogrande": (
        "allenai/winogrande/winogrande_xl", "validation",
        [{"sentence": f"{who} hid it as _ was big.", "option1": "the cup", "option2": "the box", "answer": "2"} for who in ("Tom", "Max")],
        "", [], {"Tom hid it as the box": "was big.", "Max hid it as the cup": "was big."},
    ),
    "commonsense_qa": (
        "tau/commonsense_qa", "validation", [csqa("Who?", "B"), csqa("Why?", "B")],
        "train", [csqa(question, "C") for question in FEW], {"Who?": "B", "Why?": "A"},
    ),
    "nq_open": (
        "google-research-datasets/nq_open", "validation", [{"question": "who", "answer": ["Tom", "Tommy"]}, {"question": "why", "answer": ["luck"]}],
        "train", [{"question": question, "answer": ["x"]} for question in FEW], {"who?": " the tommy!", "why?": " bad luck"},
    ),
    "triviaqa": (
        "mandarjoshi/trivia_qa/rc.nocontext", "validation",
        [{"question": question, "answer": {"value": "Tom", "aliases": ["Tom", "Tommy"]}} for question in ("Who", "Why")],
        "train", [{"question": question, "answer": {"value": "x", "aliases": ["x", "y"]}} for question in FEW],
        {"Who?": " TOMMY", "Why?": " Max"},
    ),
    "boolq": (
        "aps/super_glue/boolq", "validation",
        [{"question": question, "passage": "Dogs run.", "idx": 0, "label": 1} for question in ("do they", "do we")],
        "", [], {"do they?": "yes", "do we?": "no"},
    ),
    "squad": (
        "rajpurkar/squad_v2", "validation", [squad("Who?", "the dog", "Dogs"), squad("Why?")],
        "", [], {"Who?": " A dog.", "Why?": " luck"},
    ),
    "quac": (
        "allenai/quac/plain_text", "validation",
        [{
            "dialogue_id": "1", "wikipedia_page_title": "Dogs", "background": "", "section_title": "Life", "context": "Dogs run.",
            "turn_ids": ["1", "2"], "questions": ["Who runs?", "Why?"], "answers": {"texts": [["dogs", "big dogs"], ["CANNOTANSWER"]], "answer_starts": [[0, 0], [9]]},
            "orig_answers": {"texts": ["dogs", "CANNOTANSWER"], "answer_starts": [0, 9]},
        }],
        "", [], {"Q: Who runs?\n\nA: dogs\n\nQ: Why?": " they like it", "Who runs?": " Big dogs"},
    ),
    "gsm8k_cot": (
        "openai/gsm8k/main", "test", [{"question": question, "answer": "1 + 1 = 2\n#### 2"} for question in ("How?", "Why so?")],
        "", [], {"How?": " 1 + 1 is 2. The answer is 2.", "Why so?": " The answer is 3."},
    ),
    "mbpp": (
        "google-research-datasets/mbpp/full", "test", [ADD, {**ADD, "text": "Write sum."}],
        "", [], {"Write add.": "def add(a, b):\n    return a + b", "Write sum.": "def add(a, b):\n    return a - b"},
    ),
    "agieval_math": (
        "hails/agieval-math", "test", [{"query": f"Q: {word}? A:", "answer": "4"} for word in ("Two", "Three", "Four", "Five")],
        "", [], {"Two?": " The answer is 4", "Three?": " The answer is 5", "Four?": " 4", "Five?": " 5"},
    ),
    **{
        f"agieval_{name.replace('-', '_')}": (
            f"hails/agieval-{name}", "test", [agieval("One", 1), agieval("Two", 1), agieval("Other", 0), agieval("Another", 0)],
            "", [], {"Q: One": "(B)two", "Q: Two": "(A)one", "Q: Other": "(A)one", "Q: Another": "(B)two"},
        )
        for name in (
            "aqua-rat", "gaokao-english", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage", "sat-math",
        )
    },
    **{
        f"math_{name}": (
            f"EleutherAI/hendrycks_math/{name}", "test", [boxed("Two?", r"\frac{1}{2}"), boxed("Three?", "3")],
            "", [], {"Two?": r" It is. The final answer is $\frac12$. I hope it is correct.", "Three?": r" \boxed{4}"},
        )
        for name in (
            "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus",
        )
    },
}  # fmt: skip


def leaf_of(cfg: BenchmarkConfig) -> harness.Leaf:
    (leaf,) = (leaf for group in cfg.groups() for leaf in harness.leaves(group, cfg))
    return leaf


@pytest.mark.parametrize("task", CASES)
def test_a_task_scores_rows_of_its_published_form(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, split, rows, other, examples, facts = CASES[task]
    write(tmp_path / "rows" / folder, split, rows)
    if other:
        write(tmp_path / "rows" / folder, other, examples)
    if task == "mbpp":
        monkeypatch.setattr("evaluation.benchmarks.code_tasks.passes", runs_here)
    cfg = config(tmp_path, tmp_path, f"tasks=[{member_of(task)}]", "run_code=true")
    leaf = next(leaf for group in cfg.groups() for leaf in only(group, task, cfg))
    told = Told(facts)
    found = harness.measure(told, leaf)
    assert counts(found, leaf.member.metric) == 0.5
    assert found["rows"] == max(2, len(rows))
    shots = leaf.member.shots
    if task.startswith("agieval_"):  # as examples come from the same rows, none may be the question
        assert all(context.count(question) <= 1 for context in told.asked for question in facts)
    if other:  # as many examples as the paper's shots stand before each question
        assert all(sum(context.count(question) for question in FEW) == shots for context in told.asked)


def runs_here(program: str, seconds: float) -> bool:
    """Run a program of the test's own without a sandbox."""
    try:
        exec(program, {})
    except AssertionError:
        return False
    return True


def member_of(task: str) -> str:
    return "hendrycks_math" if task.startswith("math_") else task


def only(group: Group, task: str, cfg: BenchmarkConfig) -> list[harness.Leaf]:
    """Return the leaf of this name; of MATH's seven the others' rows are not there."""
    members = tuple(harness.Member(m.name, m.shots, m.metric, (task,)) for m in group.members)
    return list(harness.leaves(Group(group.name, group.title, group.paper, members, group.harness), cfg))


@pytest.mark.parametrize(
    ("group", "dataset", "split", "rows", "facts", "tasks"),
    [
        (
            "mmlu", "cais/mmlu", "test",
            [{"question": question, "choices": ["a", "b", "c", "d"], "answer": 1} for question in ("Who?", "Why?")],
            {"Who?": "B", "Why?": "D"}, 57,
        ),
        (
            "bbh", "SaylorTwift/bbh", "test", [{"input": question, "target": "True"} for question in ("not False", "not True")],
            {"not False": "So the answer is True.", "not True": "So the answer is False."}, 27,
        ),
    ],
)  # fmt: skip
def test_a_group_of_the_harness_has_all_its_subjects(
    group: str, dataset: str, split: str, rows: Rows, facts: dict[str, str], tasks: int, tmp_path: Path
) -> None:
    """Each is found with rows in its folder; the first and the last are measured."""
    index = harness.lm_eval.tasks.TaskManager(
        include_defaults=False, include_path=[str(harness.HARNESS / folder) for folder in read_suite("llama2", [group])[0].harness]
    ).task_index  # fmt: skip
    for entry in index.values():
        if name := (entry.cfg or {}).get("dataset_name"):
            write(tmp_path / "rows" / dataset / name, split, rows)
            write(tmp_path / "rows" / dataset / name, "dev", [{**rows[0], "question": question} for question in FEW])
    cfg = config(tmp_path, tmp_path, f"tasks=[{group}]")
    found = [leaf for one in cfg.groups() for leaf in harness.leaves(one, cfg)]
    assert len(found) == tasks
    for leaf in (found[0], found[-1]):
        assert counts(harness.measure(Told(facts), leaf), leaf.member.metric) == 0.5


def test_a_result_is_known_by_its_tasks_whole_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by what MATH's seven tasks include."""
    monkeypatch.setattr(harness, "OURS", Path(shutil.copytree(harness.OURS, tmp_path / "tasks")))
    cfg = config(tmp_path, tmp_path, "tasks=[hendrycks_math]")
    for name in CASES:
        if name.startswith("math_"):
            folder, split, rows, *_ = CASES[name]
            write(tmp_path / "rows" / folder, split, rows)

    def known_by() -> list[str]:
        return [leaf.settings()["definition"] for group in cfg.groups() for leaf in harness.leaves(group, cfg)]

    before = known_by()
    shared = tmp_path / "tasks" / "_math"
    shared.write_text(shared.read_text().replace("max_gen_toks: 512", "max_gen_toks: 256"))
    assert len(set(before)) == 7 and not set(before) & set(known_by())


def test_missing_rows_are_named(tmp_path: Path) -> None:
    cfg = config(tmp_path, tmp_path, "tasks=[boolq]")
    with pytest.raises(
        MissingFileError, match=r"root=.*no rows of aps/super_glue \(boolq\): need .*boolq/<split>.jsonl"
    ):
        leaf_of(cfg)
    write(tmp_path / "rows/aps/super_glue/boolq", "train", [{}])
    with pytest.raises(UserError, match=r"boolq reads the split 'validation': need .*boolq/validation.jsonl"):
        leaf_of(cfg).build()
    write(tmp_path / "rows/aps/super_glue/boolq", "validation", [{"text": "x"}])
    with pytest.raises(UserError, match=r"boolq: cannot use rows in root=.*need its published form"):
        leaf_of(cfg).build()
