"""Adapters: rows of public data sets to rows of our kinds.

| adapter | reads | makes |
|---|---|---|
| `hh_rlhf` | Anthropic's transcripts `chosen` / `rejected` | preference (unrated), prompt, dialogue (the chosen) |
| `hh_rlhf_helpfulness`, `hh_rlhf_safety` | the same, the kind given rather than taken from the file's name | the same |
| `oasst` | OpenAssistant message trees | dialogue: the best-ranked path through each English tree |
| `fairytale_stories` | FairytaleQA stories (`title`, `text`) | document |
| `fairytale_questions` | FairytaleQA questions about a section | dialogue: section and question -> answer |
| `messages` | our own rows with `messages`, whatever they are | prompt: what is asked last; dialogue: a preference's chosen answer; document |
| `hf` | a data set with our own fields | every kind |
| `paragraphs` | plain text, documents with blank lines between them | document |

An adapter is a function of one raw row and the source's name that yields our rows (none where the row has nothing to
give).
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from llamatrain.chat import TAGS, check_messages
from llamatrain.data.files import Place, Row
from llamatrain.data.kinds import KINDS
from llamatrain.errors import UserError

Convert = Callable[[Row, str], Iterator[Row]]  # somebody else's row -> ours, which are checked afterwards

HUB_SECONDS = 5.0  # in which the hub answers, or counts as out of reach
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}
_ROLES = {"Human": "user", "Assistant": "assistant", "prompter": "user", "assistant": "assistant"}


def _transcript(text: str) -> list[Row] | None:
    """Return the messages of a transcript; None where they do not alternate or hold the chat format's tags."""
    parts = _TURN.split(text)
    messages = [
        {"role": _ROLES[role], "content": content.strip()}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    whole = len(messages) >= 2 and len(messages) % 2 == 0 and not parts[0].strip()
    if not whole:
        return None
    for index, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if (role == "user") != (index % 2 == 0):
            return None
        # An empty answer may stand (a pair with one is left out later); a tag would read as the end of a turn.
        if (not content and role == "user") or any(tag in content for tag in TAGS):
            return None
    return messages


def _hh_pair(row: Row) -> tuple[list[Row], str, str] | None:
    """Return the shared messages and the two answers; None where the transcripts part before the last answer."""
    chosen, rejected = _transcript(row["chosen"]), _transcript(row["rejected"])
    if chosen is None or rejected is None or chosen[:-1] != rejected[:-1]:
        return None
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


def _hh_adapter(fixed: str | None) -> dict[str, Convert]:
    def preference(row: Row, source: str) -> Iterator[Row]:
        pair = _hh_pair(row)
        if pair is not None:
            messages, chosen, rejected = pair
            kind = fixed or _hh_kind(source)
            yield {"messages": messages, "chosen": chosen, "rejected": rejected, "kind": kind, "source": "hh_rlhf"}

    def prompt(row: Row, source: str) -> Iterator[Row]:
        pair = _hh_pair(row)
        if pair is not None:
            adversarial = (fixed or _hh_kind(source)) == "safety"
            yield {
                "id": f"hh_rlhf-{_identity(pair[0])}",
                "messages": pair[0],
                "source": "hh_rlhf",
                "is_adversarial": adversarial,
            }

    def dialogue(row: Row, source: str) -> Iterator[Row]:
        messages = _transcript(row["chosen"])
        if messages is not None:
            adversarial = (fixed or _hh_kind(source)) == "safety"
            yield {"messages": messages, "source": "hh_rlhf", "is_adversarial": adversarial, "loss": "last"}

    return {"preference": preference, "prompt": prompt, "dialogue": dialogue, "document": _told(dialogue)}


def _oasst_dialogue(row: Row, source: str) -> Iterator[Row]:
    """Follow the best-ranked replies (rank 0; unranked ones last) from the prompt down to the last answer."""
    node: Row = row["prompt"]
    path: list[Row] = []
    while node.get("lang") == "en" and not node.get("deleted"):
        path.append({"role": _ROLES[node["role"]], "content": node["text"].strip()})
        known = node.get("replies") or ()
        replies = [reply for reply in known if reply.get("lang") == "en" and not reply.get("deleted")]
        if not replies:
            break
        # The first of equals, and a reply that nobody ranked after all that somebody did.
        node = min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
    if len(path) % 2 == 1:  # the tree ends with a question
        path.pop()
    usable = all(m["content"] and not any(tag in m["content"] for tag in TAGS) for m in path)
    if path and usable:
        yield {"messages": path, "source": "oasst"}


def _told(convert: Convert) -> Convert:
    """Return the adapter of documents that write out the dialogues of another as text."""

    def document(row: Row, source: str) -> Iterator[Row]:
        for made in convert(row, source):
            turns = (f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in made["messages"])
            yield {"text": "\n\n".join(turns), "source": made.get("source")}

    return document


def _fairytale_document(row: Row, source: str) -> Iterator[Row]:
    yield {"text": row["text"], "source": "fairytales", "meta": {"title": row["title"]}}


def _fairytale_dialogue(row: Row, source: str) -> Iterator[Row]:
    question = f"{row['context'].strip()}\n\n{row['question'].strip()}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["answer"].strip()}]
    yield {"messages": messages, "source": "fairytales"}


def _messages_prompt(row: Row, source: str) -> Iterator[Row]:
    check_messages(row["messages"], "field 'messages'")
    asked = row["messages"][:-1] if row["messages"][-1]["role"] == "assistant" else row["messages"]
    named = f"{Path(source.partition(':')[0]).name.partition('.')[0]}-{_identity(asked)}"  # in two files: two ids
    is_adversarial = row.get("is_adversarial")
    if is_adversarial is None:
        is_adversarial = row.get("kind") == "safety"
    yield {"id": named, "messages": asked, "source": row.get("source"), "is_adversarial": is_adversarial}


def _messages_dialogue(row: Row, source: str) -> Iterator[Row]:
    check_messages(row["messages"], "field 'messages'")
    if "chosen" not in row:
        yield row
    elif row.get("chosen_safe") is not False:
        answer = {"role": "assistant", "content": row["chosen"]}
        is_adversarial = row.get("kind") == "safety"
        made = {"messages": [*row["messages"], answer], "source": row.get("source"), "loss": "last"}
        yield {**made, "is_adversarial": is_adversarial}


def _own_fields(row: Row, source: str) -> Iterator[Row]:
    yield row


ADAPTERS: dict[str, dict[str, Convert]] = {
    "hh_rlhf": _hh_adapter(None),
    "hh_rlhf_helpfulness": _hh_adapter("helpfulness"),
    "hh_rlhf_safety": _hh_adapter("safety"),
    "oasst": {"dialogue": _oasst_dialogue, "document": _told(_oasst_dialogue)},
    "fairytale_stories": {"document": _fairytale_document},
    "fairytale_questions": {"dialogue": _fairytale_dialogue, "document": _told(_fairytale_dialogue)},
    "messages": {
        "prompt": _messages_prompt,
        "dialogue": _messages_dialogue,
        "document": _told(_messages_dialogue),
    },
    "paragraphs": {"document": _own_fields},
    "hf": dict.fromkeys(KINDS, _own_fields),
}


@dataclass(frozen=True)
class Version:
    """Which of a hub data set's configurations (None: its default), at which commit, branch or tag (None: the newest)."""

    config: str | None = None
    revision: str | None = None


NEWEST = Version()


def read_hub(
    name: str, begin: int = 0, end: int | None = None, version: Version = NEWEST
) -> Iterator[tuple[Place, Row]]:
    """Yield the rows of `owner/name[/folder][:split]`, or of a local folder, with where they stand.

    A part is some of the data set's own shards: those are streamed, nothing is held or cached. A whole data set is
    loaded through `datasets`' cache.
    """
    streamed = (begin, end) != (0, None)
    rows = _stream(name, version) if streamed else _load(name, version)
    place = Place(name, unit=f", shard {begin}, row " if streamed else ", row ")
    if streamed:
        rows = rows.shard(num_shards=rows.num_shards, index=begin)
    for number, row in enumerate(rows, start=1):
        place.number = number
        yield place, dict(row)


def hub_shards(name: str, version: Version = NEWEST) -> int:
    """Return how many shards a data set has, which can be streamed one by one."""
    return int(_stream(name, version).num_shards)


def hub_splits(name: str) -> list[str]:
    """Return the splits that a data set has."""
    made = _builder(name, NEWEST)
    return [str(split) for split in (made.config.data_files or made.info.splits or {"train": None})]


def hub_stamp(name: str, version: Version = NEWEST) -> str:
    """Return what tells whether a data set changed, without loading it: its commit; of a folder, a hash of its files' times."""
    made = _builder(name, version)
    if made.repo_id is not None:
        return str(made.hash)
    found = made.config.data_files or {}
    known = {part: (list(files), list(files.origin_metadata)) for part, files in found.items()}
    return hashlib.sha256(repr(sorted((str(part), value) for part, value in known.items())).encode()).hexdigest()


def hub_fingerprint(name: str) -> str:
    """Return the fingerprint that `datasets` gives a data set."""
    return str(_load(name)._fingerprint)


def hub_length(name: str) -> int:
    """Return how many rows a data set has."""
    return len(_load(name))


def _load(name: str, version: Version = NEWEST) -> Any:
    made = _builder(name, version)
    with _refusing(name):
        made.download_and_prepare()
        return made.as_dataset(split=_spelled(name)[2])


def _stream(name: str, version: Version) -> Any:
    """Return a data set as a stream. The hub is asked once a process, however many shards it reads; a folder each time."""
    local = Path(_spelled(name)[0]).exists()
    return (_open_stream.__wrapped__ if local else _open_stream)(name, version)


@lru_cache(maxsize=4)
def _open_stream(name: str, version: Version) -> Any:
    made = _builder(name, version)
    with _refusing(name):
        return made.as_streaming_dataset(split=_spelled(name)[2])


def _builder(name: str, version: Version) -> Any:
    """Return what `datasets` makes a data set with; it knows its files and, from the hub, its commit (`hash`)."""
    import datasets  # here, because it takes a second and most runs read files
    import huggingface_hub

    path, folder, _ = _spelled(name)
    revision = version.revision
    if revision is not None and Path(path).exists():
        raise UserError(f"{name}: revision={revision}: a local folder has no revisions, need null")
    if not (Path(path).exists() or huggingface_hub.constants.HF_HUB_OFFLINE) and hub_away():
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True  # only the cache is left
    with _refusing(name):
        made = datasets.load_dataset_builder(path, version.config, data_dir=folder, revision=revision)
    # Without the hub `datasets` takes what it downloaded last, of whatever revision.
    if made.name == "cache" and revision not in (None, made.hash):
        raise UserError(
            f"{name}: revision={revision}: the hub cannot be reached and the cache holds {made.hash}, need the hub or that revision"
        )
    return made


@cache
def hub_away() -> str:
    """Return why the hub cannot be reached, "" where it can: asked once, since `datasets` retries for over a minute."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urlopen(Request(hub, method="HEAD"), timeout=HUB_SECONDS).close()
    except HTTPError:
        return ""  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        away = isinstance(reason, (socket.gaierror, ConnectionError, TimeoutError))
        return f"{hub} cannot be reached: {reason}" if away else ""
    return ""


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what `datasets` finds wrong with a name, a configuration, a revision, a split or the files into a UserError."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        if hub_away.cache_info().currsize and hub_away():
            raise UserError(f"{name}: no such file, nor in the cache of `datasets`, and {hub_away()}") from error
        raise UserError(f"{name}: no such file, and `datasets` cannot load it either: {error}{cause}") from error


def _spelled(name: str) -> tuple[str, str | None, str]:
    """Split `owner/name[/folder][:split]`, or a local path, into the data set, its folder and its split."""
    path, _, split = name.partition(":")
    parts = path.split("/")
    folder = None
    if len(parts) > 2 and not path.startswith((".", "/")):
        path, folder = "/".join(parts[:2]), "/".join(parts[2:])
    return path, folder, split or "train"


def _identity(messages: list[Row]) -> str:
    text = "\x00".join(f"{message['role']}\x01{message['content']}" for message in messages)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
