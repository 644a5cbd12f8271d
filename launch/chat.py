"""Chat with a checkpoint in the terminal: answers stream in, the history is kept, the oldest turns make room.

    llamatrain chat runs/demo/ppo/final
    llamatrain chat runs/demo                               the last model of a pipeline
    llamatrain chat runs/demo/sft/final runs/demo/ppo/final

The last form puts the same questions to both, with the answers side by side. Both draw with the same noise, so that
they differ by their models alone. With piped input every line is a separate prompt (or a command) and every answer a
paragraph; of two, each begins with its checkpoint's name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamatrain.config import program
from llamatrain.errors import MissingFileError, UserError
from llamatrain.exits import EXIT_USER
from llamatrain.keys import check_values, one_of
from llamatrain.runs import read_json
from llamatrain.settings import PRECISIONS, SamplingConfig
from llamatrain.stopping import handling
from llamatrain.streams import shown

from . import answers
from .beside import beside, column
from .dialogue import Chat, ask_all
from .programs import PROGRAMS, with_keys
from .wrapping import collapsed, wrapped

HELP = "/quit ends   /reset starts over   /system TEXT sets the system message   Ctrl-C stops an answer"
QUIT = ("/quit", "/exit")
CUT = "[cut: sampling.max_new_tokens or the context's end]"


@dataclass
class ChatConfig:
    """configs/chat.yaml says what each key means."""

    checkpoint: str
    against: str | None
    tokenizer: str | None
    system: str | None
    sampling: SamplingConfig
    seed: int
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class Colours:
    """How to switch them on and off; nothing where they are not wanted."""

    dim: str = ""
    bold: str = ""
    plain: str = ""

    @staticmethod
    def here() -> Colours:
        """Return those of standard output."""
        wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        return Colours("\033[2m", "\033[1;36m", "\033[0m") if wanted else Colours()


def load(cfg: ChatConfig) -> list[Chat]:
    """Load the checkpoint, or both, onto the GPU where there is one."""
    named = {"checkpoint": cfg.checkpoint, "against": cfg.against}
    return [_load(cfg, key, _last_of(path)) for key, path in named.items() if path is not None]


def _last_of(path: str) -> str:
    """Return, of a pipeline's folder, that of its last stage that made a model to talk to; any other path as it is."""
    stages = read_json(Path(path) / "pipeline.json").get("stages", {})
    programs = {
        name: PROGRAMS.get(node["program"]) for name, node in stages.items() if (Path(path) / name / "final").exists()
    }
    made = {name: one for name, one in programs.items() if one is not None and one.model}
    found = [name for name, one in made.items() if one.chats] or list(made)
    return str(Path(path) / found[-1]) if found else path


def _load(cfg: ChatConfig, key: str, path: str) -> Chat:
    import torch

    from llamatrain import checkpoint, hf_folder
    from llamatrain.model.transformer import Transformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        folder = checkpoint.resolve(path)
    except MissingFileError:
        *others, last = (name for name, program in PROGRAMS.items() if program.model)
        raise UserError(f"{key}={path} does not exist; {', '.join(others)} and {last} make checkpoints") from None
    model = hf_folder.load_model(folder, device, getattr(torch, cfg.dtype))
    if not isinstance(model, Transformer):
        raise UserError(f"{key}={path} is a reward model: it scores responses and cannot chat")
    tokenizer = hf_folder.load_tokenizer(folder, cfg.tokenizer)
    return Chat(path, model.eval(), tokenizer, cfg.sampling.seeded(cfg.seed, "chat"), cfg.system)


def talk(cfg: ChatConfig) -> None:
    """Talk to a checkpoint, or to two at once."""
    chats = load(cfg)
    if sys.stdin.isatty():
        with handling(signal.default_int_handler, [signal.SIGINT]):  # it ends an answer, not the program
            _converse(chats, Colours.here())
    else:
        _answer_lines(chats)


def _answer_lines(chats: Sequence[Chat]) -> None:
    """Answer every line of standard input by itself; what commands say goes to standard error.

    A line that cannot be asked is said there, too, and gets an empty paragraph; the exit code is then 2.
    """
    refused = False
    for number, line in enumerate(map(str.strip, sys.stdin), 1):
        if line in QUIT:
            break
        if line.startswith("/"):
            print(_command(chats, line), file=sys.stderr)
        elif line:
            for chat in chats:
                chat.forget()
            try:
                ask_all(chats, line)
                said = ["".join(said_by(chat)).strip() for chat in chats]
            except UserError as error:
                print(f"error: line {number}: {error}", file=sys.stderr)
                refused, said = True, [""] * len(chats)
            for chat, answer in zip(chats, said, strict=True):
                print(f"{chat.name}: {answer}" if len(chats) > 1 else answer, end="\n\n", flush=True)
    if refused:
        raise SystemExit(EXIT_USER)


def _converse(chats: Sequence[Chat], colours: Colours) -> None:
    """Read and answer until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())
    # readline must not count colours as columns
    prompt = f"\001{colours.bold}\002>\001{colours.plain}\002 " if colours.bold else "> "
    names = "\n".join(f"{colours.bold}{chat.name}{colours.plain}" for chat in chats)
    print(f"\n{names}\n{colours.dim}{_lines(HELP)}{colours.plain}\n")
    who = "It" if len(chats) == 1 else chats[-1].name
    questions = answers.questions(chats[-1].name)
    if questions:  # of a toy world: such a model knows nothing else, not even a greeting alone
        known = f"{who} knows its small world and nothing else. It answered these correctly in its evaluation:"
        print(f"{colours.dim}{_lines(known)}{colours.plain}")
        print("".join(f"  {_lines(question)}\n" for question in questions))
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(f"\n{colours.dim}/quit ends{colours.plain}")
            continue
        if text in QUIT:
            return
        if text.startswith("/"):
            print(f"{colours.dim}{_command(chats, text)}{colours.plain}\n")
        elif text:
            _reply(chats, text, colours)


def columns() -> int:
    """Return how wide a line is: the terminal's, or without end where the answers go into a file."""
    return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize


def _lines(text: str) -> str:
    return "".join(wrapped([text], columns() - 2))


def _command(chats: Sequence[Chat], text: str) -> str:
    """Obey a /command and return what to say about it."""
    name, _, rest = text.partition(" ")
    if name not in ("/reset", "/system"):
        return HELP if name == "/help" else f"there is no {name}   {HELP}"
    system = rest.strip() or None
    for chat in chats:
        chat.forget()
        if name == "/system":
            chat.system = system
    if name == "/reset":
        return "a new dialogue"
    return f"system message: {system}; a new dialogue" if system else "no system message; a new dialogue"


def _reply(chats: Sequence[Chat], text: str, colours: Colours) -> None:
    """Stream one answer of each; Ctrl-C stops them."""
    try:
        dropped = ask_all(chats, text)
    except UserError as error:
        print(f"{colours.dim}{error}{colours.plain}\n")
        return
    if dropped:
        turns = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
        print(f"{colours.dim}the context is full: {turns} forgotten{colours.plain}")
    width = column(columns()) if len(chats) > 1 and sys.stdout.isatty() else 0
    try:
        if width:
            _stream_beside(chats, width, colours)
        else:
            for chat in chats:
                _stream(chat, len(chats) > 1, colours)
    except KeyboardInterrupt:
        print(f"{colours.dim} [stopped]{colours.plain}")
        for chat in chats:
            chat.answered()
    print()


def said_by(chat: Chat) -> Iterator[str]:
    """Yield an answer as it may go to a terminal; a base model fills whole screens with blank lines."""
    return collapsed(map(shown, chat.answer()))


def _stream(chat: Chat, named: bool, colours: Colours) -> None:
    if named:
        print(f"{colours.bold}{chat.name}{colours.plain}")
    for piece in wrapped(said_by(chat), columns()):
        print(piece, end="", flush=True)
    print("" if chat.finished else f"{colours.dim} {CUT}{colours.plain}")


def _stream_beside(chats: Sequence[Chat], width: int, colours: Colours) -> None:
    left, right = chats
    for row in beside([_end_of(left.name, width)], [_end_of(right.name, width)], width):
        print(f"{colours.bold}{row}{colours.plain}")
    for row in beside(_noted(left), _noted(right), width):
        print(row, flush=True)


def _noted(chat: Chat) -> Iterator[str]:
    """Yield an answer for the terminal, with a note where it was cut."""
    yield from said_by(chat)
    if not chat.finished:
        yield f"\n{CUT}"


def _end_of(name: str, width: int) -> str:
    """Return the end of a path that says most, in so many characters."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def main(argv: Sequence[str] | None = None) -> None:
    """Take checkpoints without their keys: `llamatrain chat runs/demo/sft runs/demo/ppo`."""
    program.main("chat", ChatConfig, talk, with_keys("chat", argv))


if __name__ == "__main__":
    main()
