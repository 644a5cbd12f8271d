"""What must not be published with a model: tokens and keys, and the paths of somebody's home, in any text file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# What it is -> how it looks. Patterns of the services' own documentation; a token of an unknown shape is not found.
PATTERNS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "an OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a wandb key": r"\bwandb_v1_[A-Za-z0-9_]{20,}|(?i:wandb_api_key|api_key)\W{1,4}[0-9a-f]{40}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a password": r"(?i)\b(?:password|passwd|secret_key|access_token|auth_token)[\"']?\s*[:=]\s*[\"']?[^\s\"',}]{6,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "a path of somebody's home": r"(?:/home/|/Users/|/root/|[A-Z]:\\\\?Users\\)[\w.-][^\s\"',:;)\]]*",
}
KNOWN = {what: re.compile(pattern) for what, pattern in PATTERNS.items()}
SHOWN = 6  # characters of what was found: enough to find it again


def found_in(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what it is, its beginning) of what must not be published in a text file; nothing of a binary one."""
    with path.open("rb") as file:
        if b"\0" in file.read(1 << 12):
            return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            for what, pattern in KNOWN.items():
                for match in pattern.finditer(line):
                    shown = match[0] if "path" in what else f"{match[0][:SHOWN]}..."
                    yield number, what, shown
