"""What a page is: a module with a class `Task` of this shape, a template of the module's name, and verdicts in the store.

The server knows no more of a page than this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from llamatrain.chat import Message

from .store import Item, Verdict


class Unclear(ValueError):
    """A form that says no verdict; the message tells the rater what is missing."""


class Task(Protocol):
    """A page's own part; it is made from the program's settings."""

    title: str
    asks: bool  # whether raters write prompts of their own, which models answer while they wait

    def items(self) -> Iterable[Item]:
        """Yield what is rated, gold items among them."""

    def view(self, item: Item, swapped: bool) -> dict[str, Any]:
        """Return what the template shows of an item; of a pair the second comes first where it is `swapped`."""

    def read(self, item: Item, swapped: bool, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the verdict that a form says, without regard to what stood on which side; Unclear where it says none."""

    def row(self, item: Item, verdict: Verdict) -> dict[str, Any] | None:
        """Return a verdict as a row of the file; None where there is none to use."""

    def agree(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
        """Tell whether two verdicts on an item, or one and the known answer, agree; None where that cannot be said."""

    # Of a page that asks:

    def asking(self) -> dict[str, Any]:
        """Return what the page on which raters write shows."""

    def answered(
        self, messages: list[Message], form: Mapping[str, str], key: str, before: Item | None
    ) -> dict[str, Any]:
        """Return the content of an item: what models answer to what the rater wrote last; Unclear where they cannot.

        `before` is the item whose conversation goes on.
        """

    def going_on(self, item: Item, verdict: Verdict) -> list[Message] | None:
        """Return the conversation with the chosen response, which the rater may go on with; None where there is none."""
