"""Chat with a checkpoint in the terminal: answers stream in, the history is kept, the oldest turns make room.

With piped input every line is a separate prompt (or a command) and every answer a paragraph.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamatrain.config.program import main
from llamatrain.errors import MissingFileError, UserError
from llamatrain.exits import EXIT_USER
from llamatrain.keys import check_values, one_of
from llamatrain.settings import PRECISIONS, SamplingConfig
from llamatrain.stopping import handling
from llamatrain.streams import shown

from . import answers
from .wrapping import wrapped

if TYPE_CHECKING:
    from llamatrain.model.transformer import Transformer
    from llamatrain.tokenizer import Tokenizer

HELP = "/quit ends   /reset starts over   /system TEXT sets the system message   Ctrl-C stops an answer"
QUIT = ("/quit", "/exit")
HALF = "\ufffd"  # what bytes decode to that are not yet a whole character


@dataclass
class ChatConfig:
    """configs/chat.yaml says what each key means."""

    checkpoint: str
    tokenizer: str | None
    system: str | None
    sampling: SamplingConfig
    seed: int
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        check_values(self)


class Chat:
    """A dialogue with a model, as long as its context holds."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, cfg: ChatConfig) -> None:
        """Begin with an empty history."""
        self.model, self.tokenizer, self.system = model, tokenizer, cfg.system
        self.sampling = cfg.sampling.seeded(cfg.seed, "chat")
        # What an answer should find free at least; where the context is small, a quarter of it.
        self.room = min(cfg.sampling.max_new_tokens, model.config.max_seq_len // 4)
        self.turns: list[dict[str, str]] = []
        self.finished = True  # whether the last answer ended by itself

    def forget(self) -> None:
        """Begin a new dialogue."""
        self.turns = []

    def ask(self, text: str) -> int:
        """Add the user's turn; return how many of the oldest exchanges had to be dropped to make room.

        UserError where the text alone does not fit, or holds a tag of the chat format; the history is unchanged then.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        dropped = 0
        while len(self._encoded(turns)) + self.room > self.model.config.max_seq_len:
            if len(turns) == 1:
                if len(self._encoded(turns)) < self.model.config.max_seq_len:
                    break  # less room than wished for, but some
                context = self.model.config.max_seq_len
                raise UserError(f"too long: with it the prompt has {len(self._encoded(turns))} tokens of {context}")
            turns, dropped = turns[2:], dropped + 1
        self.turns = turns
        return dropped

    def answer(self) -> Iterator[str]:
        """Yield the answer piece by piece; what was yielded is in the history, even if the caller stops early."""
        from llamatrain.generation import stream

        prompt, tokens, shown = self._encoded(self.turns), list[int](), ""
        self.turns.append({"role": "assistant", "content": ""})
        self.finished = False
        key = ("chat", len(self.turns))
        for token in stream(self.model, prompt, key, self.sampling, self.tokenizer.eos_id):
            self.finished = token == self.tokenizer.eos_id
            tokens.append(token)
            text = self.tokenizer.decode(tokens).lstrip()
            piece = text[len(shown) :]
            if piece and not (text.endswith(HALF) and not self.finished):
                shown = text
                self.turns[-1]["content"] = shown
                yield piece

    def _encoded(self, turns: list[dict[str, str]]) -> list[int]:
        from llamatrain.chat import TAGS, encode_prompt

        def untagged(turn: dict[str, str]) -> dict[str, str]:
            content = turn["content"]
            for tag in TAGS if turn["role"] == "assistant" else ():  # a model may babble them; then they are no turns
                content = content.replace(tag, "")
            return {**turn, "content": content}

        system = [{"role": "system", "content": self.system}] if self.system else []
        return encode_prompt([*system, *map(untagged, turns)], self.tokenizer)


def load(cfg: ChatConfig) -> Chat:
    """Load the checkpoint onto the GPU where there is one."""
    import torch

    from llamatrain import checkpoint, hf_folder
    from llamatrain.model.transformer import Transformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        folder = checkpoint.resolve(cfg.checkpoint)
    except MissingFileError:
        makers = "pretrain, sft, rejection_sampling and ppo make checkpoints"
        raise UserError(f"checkpoint={cfg.checkpoint} does not exist; {makers}") from None
    model = hf_folder.load_model(folder, device, getattr(torch, cfg.dtype))
    if not isinstance(model, Transformer):
        raise UserError(f"checkpoint={cfg.checkpoint} is a reward model: it scores responses and cannot chat")
    return Chat(model.eval(), hf_folder.load_tokenizer(folder, cfg.tokenizer), cfg)


def talk(cfg: ChatConfig) -> None:
    """Talk to a checkpoint."""
    chat = load(cfg)
    if sys.stdin.isatty():
        with handling(signal.default_int_handler, [signal.SIGINT]):  # it ends an answer, not the program
            _converse(chat, cfg.checkpoint)
    else:
        _answer_lines(chat)


def _answer_lines(chat: Chat) -> None:
    """Answer every line of standard input by itself; what commands say goes to standard error.

    A line that cannot be asked is said there, too, and gets an empty paragraph; the exit code is then 2.
    """
    refused = False
    for number, line in enumerate(map(str.strip, sys.stdin), 1):
        if line in QUIT:
            break
        if line.startswith("/"):
            print(_command(chat, line), file=sys.stderr)
        elif line:
            chat.forget()
            try:
                chat.ask(line)
                answer = "".join(map(shown, chat.answer())).strip()
            except UserError as error:
                print(f"error: line {number}: {error}", file=sys.stderr)
                refused, answer = True, ""
            print(answer, end="\n\n", flush=True)
    if refused:
        raise SystemExit(EXIT_USER)


def _converse(chat: Chat, name: str) -> None:
    """Read and answer until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    dim, bold, plain = ("\033[2m", "\033[1;36m", "\033[0m") if colour else ("", "", "")
    # readline must not count colours as columns
    prompt = f"\001{bold}\002>\001{plain}\002 " if colour else "> "
    print(f"\n{bold}{name}{plain}\n{dim}{_lines(HELP)}{plain}\n")
    questions = answers.questions(name)
    if questions:  # of a toy world: such a model knows nothing else, not even a greeting alone
        known = "It knows its small world and nothing else. It answered these correctly in its evaluation:"
        print(f"{dim}{_lines(known)}{plain}")
        print("".join(f"  {_lines(question)}\n" for question in questions))
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(f"\n{dim}/quit ends{plain}")
            continue
        if text in QUIT:
            return
        if text.startswith("/"):
            print(f"{dim}{_command(chat, text)}{plain}\n")
        elif text:
            _reply(chat, text, dim, plain)


def columns() -> int:
    """Return how wide a line is: the terminal's, or without end where the answers go into a file."""
    return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize


def _lines(text: str) -> str:
    return "".join(wrapped([text], columns() - 2))


def _command(chat: Chat, text: str) -> str:
    """Obey a /command and return what to say about it."""
    name, _, rest = text.partition(" ")
    if name == "/reset":
        chat.forget()
        return "a new dialogue"
    if name == "/system":
        chat.forget()
        chat.system = rest.strip() or None
        return f"system message: {chat.system}; a new dialogue" if chat.system else "no system message; a new dialogue"
    return HELP if name == "/help" else f"there is no {name}   {HELP}"


def _reply(chat: Chat, text: str, dim: str, plain: str) -> None:
    """Stream one answer; Ctrl-C stops it."""
    try:
        dropped = chat.ask(text)
    except UserError as error:
        print(f"{dim}{error}{plain}\n")
        return
    if dropped:
        turns = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
        print(f"{dim}the context is full: {turns} forgotten{plain}")
    try:
        for piece in wrapped(map(shown, chat.answer()), columns()):
            print(piece, end="", flush=True)
        print("" if chat.finished else f"{dim} [cut: sampling.max_new_tokens or the context's end]{plain}")
    except KeyboardInterrupt:
        print(f"{dim} [stopped]{plain}")
    print()


if __name__ == "__main__":
    main("chat", ChatConfig, talk)
