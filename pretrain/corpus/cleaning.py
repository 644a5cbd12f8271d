"""Cleaning of one text: Unicode repair, control characters, boilerplate lines. Each step counts what it changed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import ftfy
from ftfy.badness import is_bad

from .config import Cleaning

# Only the encoding is repaired: quotes, ligatures, wide characters and HTML entities may be meant.
_PLAN = ftfy.TextFixerConfig(
    unescape_html=False,
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    fix_line_breaks=False,
    remove_terminal_escapes=False,
    remove_control_chars=False,
)


# C0 and C1 but tab and newline, zero-width and direction marks that carry no text, the byte order mark, interlinear
# annotations and the object replacement character. U+200C and U+200D stay: Persian, Indic scripts and emoji need them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc]"
)
_BREAK = re.compile("\r\n?|\x0c|\u2028|\u2029|\x85")

# A line is a notice where it is short and says nothing else. One word of each rule stands in _HINTS, which are looked
# for first: most texts hold none.
_HINTS = (
    "cookie",
    "javascript",
    "rights reserved",
    "newsletter",
    "privacy policy",
    "terms of",
    "share on",
    "share this",
    "log in",
    "sign in",
    "sign up",
    "skip to",
    "read more",
    "back to top",
    "loading",
    "advertisement",
)
NOTICE_CHARACTERS = 200
_NOTICES = re.compile(
    r"""\W*(?:
      (?:this|our)\ (?:web)?site\ uses?\ cookies\b.* | we\ (?:and\ our\ partners\ )?use\ cookies\b.*
    | by\ (?:continuing|using|browsing)\b.*\bcookies?\b.* | (?:accept|manage|reject)\ (?:all\ )?cookies\b.*
    | (?:cookie|privacy)\ (?:policy|settings|preferences|notice)(?:\W+(?:terms\b.*|cookie\b.*|privacy\b.*))?
    | (?:please\ )?(?:enable|turn\ on|activate)\ javascript\b.* | .*\bjavascript\ (?:is|must\ be|seems\ to\ be)\ (?:disabled|enabled|required)\b.*
    | .*\brequires?\ javascript\b.* | .{0,80}\ball\ rights\ reserved\W*
    | (?:subscribe\ to|sign\ up\ for|join)\ (?:our|the)\ (?:\w+\ )?newsletter\b.{0,60}
    | terms\ of\ (?:use|service)(?:\W+(?:and\ )?privacy\ policy)?(?:\W+.{0,60})?
    | share\ (?:this|on)\b.{0,60} | (?:please\ )?(?:log|sign)\ (?:in|up)(?:\ (?:or|to|/)\b.{0,60})?
    | skip\ to\ (?:main\ )?(?:content|navigation) | read\ more | back\ to\ top | loading | advertisements?
    )\W*""",
    re.I | re.X,
)


def clean(text: str, settings: Cleaning, counts: Counter[str]) -> str:
    """Return the text cleaned; `counts` gets one for each step that changed it, and the lines it lost."""
    if settings.unicode and not text.isascii():
        text = _counted(text, repair_unicode(text), "unicode", counts)
    if settings.control_characters:
        text = _counted(text, drop_control_characters(text), "control_characters", counts)
    if settings.boilerplate:
        text = _counted(text, drop_notices(text, counts), "boilerplate", counts)
    return text


def _counted(old: str, new: str, step: str, counts: Counter[str]) -> str:
    if new is not old and new != old:
        counts[step] += 1
    return new


def repair_unicode(text: str) -> str:
    """Undo wrong decodings (mojibake, with ftfy) and bring the text into NFC. ASCII needs neither."""
    if is_bad(text):  # what ftfy itself asks of each line: whole texts are quicker and most are fine
        text = ftfy.fix_text(text, _PLAN)
    return unicodedata.normalize("NFC", text)


def drop_control_characters(text: str) -> str:
    """Write every line break as a newline and drop characters that print nothing."""
    # Most texts have none: the same object says so without a comparison (`_counted`).
    if _CONTROL.search(text) is None and "\u2028" not in text and "\u2029" not in text:
        return text
    return _CONTROL.sub("", _BREAK.sub("\n", text))


def drop_notices(text: str, counts: Counter[str]) -> str:
    """Drop lines that are notices of a site: cookies, JavaScript, rights, newsletters, navigation."""
    if len(text) > NOTICE_CHARACTERS and "\n" not in text:  # one line, too long to be a notice
        return text
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):  # a plain search, many times as fast as the rules
        return text
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > NOTICE_CHARACTERS or not line or not _NOTICES.fullmatch(line)]
    if len(kept) == len(lines):
        return text
    counts["boilerplate_lines"] += len(lines) - len(kept)
    return "\n".join(kept)
