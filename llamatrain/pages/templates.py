"""Where pages' templates are read from: a folder of the caller's own, then those that all pages share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHARED = Path(__file__).with_name("templates")  # page.css, print.css, head.html, parts.html


@cache
def templates(own: Path) -> Environment:
    """Return the templates of a folder, which include the shared ones by name. Every text is escaped."""
    return Environment(
        loader=FileSystemLoader([own, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
