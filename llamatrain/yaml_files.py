"""YAML files on disk, read by one strict reader. The one file of what settings need that imports more than Python brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .text_files import as_unicode, read_text


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; UserError with the line where it is no YAML or names a key twice."""
    text = read_text(path)
    try:
        return as_unicode(yaml.load(text, Loader=_StrictLoader), text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML: {' '.join(str(error.problem).split())}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # a ValueError of a date that cannot be
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML in which no key may stand twice, and which contains no circle."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._above: list[yaml.Node | None] = []  # what the node that is being read stands in

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._above.append(parent)
        try:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]
                if any(node is self.anchors.get(event.anchor) for node in self._above if node is not None):
                    raise yaml.composer.ComposerError(None, None, f"*{event.anchor} contains itself", event.start_mark)
            return super().compose_node(parent, index)
        finally:
            self._above.pop()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key.value}'", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)
