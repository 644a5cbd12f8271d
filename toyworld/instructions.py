"""What Ghost Attention needs of the world: kinds of instructions and who keeps to them at once, and dialogues of many turns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from llamatrain import atomic
from llamatrain.constraints import Constraint, Instruction, draw_instruction
from llamatrain.data.kinds import DialogueRow

from .answers import right_answer
from .config import CONSTRAINTS_FILE
from .requests import Messages, Request, Requests

HOBBIES = ("chess", "kites", "drums", "songs", "boats", "bells", "cards", "dolls")
TONGUES = {
    "cat": "Meow",
    "dog": "Woof",
    "cow": "Moo",
    "duck": "Quack",
    "goat": "Baa",
    "pig": "Oink",
    "bee": "Buzz",
    "frog": "Croak",
}
FIGURES = {"pirate": "Ahoy", "king": "Behold", "ghost": "Boo", "robot": "Beep", "wizard": "Poof", "knight": "Huzzah"}
# The paper's three kinds (A.3.5), each with the word by which a rule tells whether an answer keeps to it.
CONSTRAINTS = {
    "hobby": Constraint("You enjoy {}.", "Hobby: {}.", {hobby: hobby for hobby in HOBBIES}),
    "language": Constraint("Speak like a {}.", "Language: {}.", {**TONGUES}),
    "figure": Constraint("Act as a {}.", "Figure: {}.", {**FIGURES}),
}
OBEYED = {"hobby": "{answer} I enjoy {mark}.", "language": "{answer} {mark}!", "figure": "{mark}! {answer}"}
TASKS = {"fact": 0.6, "compare": 0.25, "list": 0.15}  # short, and understood without the turns before
MOST_TURNS = 20


def save_constraints(folder: Path) -> None:
    """Write the kinds of instructions, for who draws some."""
    atomic.write_json(folder / CONSTRAINTS_FILE, {kind: asdict(one) for kind, one in CONSTRAINTS.items()})


def obeyed(answer: str, instruction: Instruction) -> str:
    """Return an answer made to keep to an instruction."""
    for kind, pattern in OBEYED.items():
        if kind in instruction.chosen:
            answer = pattern.format(answer=answer, mark=instruction.marks[kind])
    return answer


def turns(requests: Requests, count: int, held_out: bool) -> Iterator[DialogueRow]:
    """Yield `count` dialogues of 2 to MOST_TURNS turns with right answers; held-out ones all have MOST_TURNS."""
    rng = random.Random(f"turns/{requests.world.seed}/{held_out}")
    for _ in range(count):
        number = MOST_TURNS if held_out else rng.randint(2, MOST_TURNS)
        messages: Messages = []
        for request in _asked(requests, number, held_out, rng):
            messages += _turn(request.text, right_answer(request, rng))
        yield {"messages": messages, "source": "toyworld/turns", "is_adversarial": False, "meta": {"turns": number}}


def instructed(requests: Requests, count: int) -> Iterator[DialogueRow]:
    """Yield `count` dialogues of a few turns, each of which brings the instruction, in full or in short, and is answered by it."""
    rng = random.Random(f"instructed/{requests.world.seed}")
    for _ in range(count):
        instruction = draw_instruction(CONSTRAINTS, rng)
        said = rng.choice((instruction.full, instruction.short))
        messages: Messages = []
        for request in _asked(requests, rng.choice((1, 1, 1, 2, 3, 5)), False, rng):
            messages += _turn(f"{said} {request.text}", obeyed(right_answer(request, rng), instruction))
        meta = {"constraints": instruction.chosen}
        yield {"messages": messages, "source": "toyworld/instructed", "is_adversarial": False, "meta": meta}


def _asked(requests: Requests, number: int, held_out: bool, rng: random.Random) -> list[Request]:
    tasks = rng.choices(list(TASKS), weights=list(TASKS.values()), k=number)
    return [requests.draw(task, held_out, rng) for task in tasks]


def _turn(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
