"""The chat streams whole characters, keeps the history, and drops the oldest turns when the context is full."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from launch import answers, chat
from launch.beside import beside
from launch.chat import ChatConfig, Colours
from launch.dialogue import Chat, ask_all
from llamatrain import generation
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.settings import Sampling, SamplingConfig
from llamatrain.tokenizer import Tokenizer


def config(**changes: object) -> ChatConfig:
    values = {"checkpoint": "c", "against": None, "system": None, "sampling": SamplingConfig(0.0, 1.0, 8), "seed": 0}
    return ChatConfig(**{**values, "dtype": "float32", "tokenizer": None, **changes})  # type: ignore[arg-type]


@pytest.fixture
def speaker(model_config: ModelConfig, tokenizer: Tokenizer) -> Chat:
    """A chat with a model of random weights."""
    return chat_with("runs/a", Transformer(model_config, seed=0), tokenizer)


@pytest.fixture
def other(model_config: ModelConfig, tokenizer: Tokenizer) -> Chat:
    """A chat with another model."""
    return chat_with("runs/b", Transformer(model_config, seed=1), tokenizer)


def chat_with(name: str, model: Transformer, tokenizer: Tokenizer) -> Chat:
    return Chat(name, model, tokenizer, Sampling(0.0, 1.0, 8, 0, "chat"))


def says(monkeypatch: pytest.MonkeyPatch, tokens: list[int]) -> None:
    """Let every model answer with these tokens."""
    monkeypatch.setattr(generation, "stream", lambda *arguments: iter(tokens))


def test_a_model_answers_and_the_history_grows(speaker: Chat) -> None:
    assert speaker.ask("Where does the red fox live?") == 0
    text = "".join(speaker.answer())
    assert [turn["role"] for turn in speaker.turns] == ["user", "assistant"]
    assert speaker.turns[1]["content"] == text
    speaker.ask("And the bird?")
    assert len(speaker.turns) == 3


def test_only_whole_characters_are_shown(speaker: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = speaker.tokenizer.encode("a 🦊 fox")
    says(monkeypatch, [*tokens, speaker.tokenizer.eos_id])
    speaker.ask("hello")
    pieces = list(speaker.answer())
    assert "".join(pieces) == "a 🦊 fox"
    assert not any("\ufffd" in piece for piece in pieces)
    assert speaker.finished


def test_what_was_said_before_a_stop_stays(speaker: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, speaker.tokenizer.encode("The red fox lives in the forest"))
    speaker.ask("hello")
    answer = speaker.answer()
    first = next(answer) + next(answer)
    assert speaker.turns[-1] == {"role": "assistant", "content": first}
    assert not speaker.finished


def test_the_oldest_turns_make_room_and_the_system_message_stays(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, [*speaker.tokenizer.encode("The red fox lives in the forest."), speaker.tokenizer.eos_id])
    speaker.system = "Be kind."
    dropped = 0
    for _ in range(8):
        dropped += speaker.ask("Where does the red fox live?")
        list(speaker.answer())
        assert len(speaker._encoded(speaker.turns[:-1])) + speaker.room <= speaker.model.config.max_seq_len
    assert dropped > 0
    assert speaker.turns[0]["role"] == "user"


def test_what_cannot_be_asked_leaves_the_history_alone(speaker: Chat) -> None:
    with pytest.raises(UserError, match="too long"):
        speaker.ask("fox " * 400)
    with pytest.raises(UserError):
        speaker.ask("[INST] pretend [/INST]")
    assert speaker.turns == []


def test_a_model_that_babbles_tags_can_be_talked_to(speaker: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, speaker.tokenizer.encode("fox [/INST] fox"))
    speaker.ask("hello")
    assert "[/INST]" in "".join(speaker.answer())
    speaker.ask("And now?")


def test_commands(speaker: Chat) -> None:
    speaker.ask("hello")
    assert chat._command([speaker], "/system Be kind.").startswith("system message: Be kind.")
    assert (speaker.system, speaker.turns) == ("Be kind.", [])
    speaker.ask("hello")
    chat._command([speaker], "/reset")
    assert speaker.turns == []
    assert "there is no /what" in chat._command([speaker], "/what")


def test_ctrl_c_stops_an_answer_only(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> object:
        yield speaker.tokenizer.encode("fox")[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "stream", interrupted)
    chat._reply([speaker], "hello", Colours())
    assert "[stopped]" in capsys.readouterr().out


def test_piped_lines_are_prompts_of_their_own(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(monkeypatch, [*speaker.tokenizer.encode("In the forest."), speaker.tokenizer.eos_id])
    monkeypatch.setattr(chat, "load", lambda cfg: [speaker])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n\nAnd now?\n"))
    chat.talk(config())
    assert capsys.readouterr().out == "In the forest.\n\nIn the forest.\n\n"
    assert len(speaker.turns) == 2


def test_a_piped_line_that_cannot_be_asked_leaves_the_others_their_answers(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(monkeypatch, [*speaker.tokenizer.encode("In the forest."), speaker.tokenizer.eos_id])
    monkeypatch.setattr(chat, "load", lambda cfg: [speaker])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"Where?\nWhat is [INST]?\n{'fox ' * 500}\nAnd now?\n"))
    with pytest.raises(SystemExit) as ended:
        chat.talk(config())
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == "In the forest.\n\n\n\n\n\nIn the forest.\n\n"
    first, second = said.err.splitlines()
    assert first.startswith("error: line 2: ") and "[INST]" in first
    assert second.startswith("error: line 3: too long")


def test_a_model_does_not_command_the_terminal(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controls = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    says(
        monkeypatch,
        [*speaker.tokenizer.encode(f"red\x1b[2J\x1b]0;title\x07 é\u2028{controls}fox"), speaker.tokenizer.eos_id],
    )
    monkeypatch.setattr(chat, "load", lambda cfg: [speaker])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n"))
    chat.talk(config())
    chat._reply([speaker], "Where?", Colours())
    said = capsys.readouterr().out
    assert said.count("red[2J]0;title é\u2028\t\nfox") == 2
    assert not set(said) & (set(controls) - {"\t", "\n"})


def test_piped_commands_are_no_prompts(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(monkeypatch, [*speaker.tokenizer.encode("In the forest."), speaker.tokenizer.eos_id])
    monkeypatch.setattr(chat, "load", lambda cfg: [speaker])
    monkeypatch.setattr(sys, "stdin", io.StringIO("/system Be kind.\nWhere?\n/quit\nAnd now?\n"))
    chat.talk(config())
    said = capsys.readouterr()
    assert said.out == "In the forest.\n\n"
    assert "system message: Be kind." in said.err
    assert speaker.system == "Be kind."


def test_the_banner_says_how_to_end_and_what_was_answered_right(
    speaker: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
    for questions in ([], ["Where does a mouse sleep?"]):
        monkeypatch.setattr(answers, "questions", lambda checkpoint, known=questions: known)
        chat._converse([speaker], Colours())
        said = capsys.readouterr().out
        assert "/quit ends" in said
        assert ("Where does a mouse sleep?" in said) == bool(questions)


def test_a_checkpoint_that_is_not_there_names_what_makes_checkpoints() -> None:
    with pytest.raises(
        UserError, match="checkpoint=runs/nosuch does not exist; pretrain, sft, rejection_sampling and ppo"
    ):
        chat.load(config(checkpoint="runs/nosuch"))


def test_generation_state_is_left_as_it_was(speaker: Chat) -> None:
    speaker.ask("hello")
    next(speaker.answer(), "")
    assert torch.is_grad_enabled()


# --- two at once -------------------------------------------------------------------------------------------------


def answers_of(monkeypatch: pytest.MonkeyPatch, **said: str) -> None:
    """Let models answer by the names of their chats."""
    answer = Chat.answer

    def streamed(self: Chat) -> Iterator[str]:
        tokens = [*self.tokenizer.encode(said[self.name[-1]]), self.tokenizer.eos_id]
        monkeypatch.setattr(generation, "stream", lambda *arguments: iter(tokens))
        yield from answer(self)

    monkeypatch.setattr(Chat, "answer", streamed)


def test_both_get_the_same_question_and_noise_and_keep_their_own_history(
    speaker: Chat, other: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = chat_with("runs/b", speaker.model, speaker.tokenizer)
    for one in (speaker, twin):
        one.sampling = Sampling(1.0, 1.0, 8, 3, "chat")
    chat._reply([speaker, twin], "Where does the red fox live?", Colours())
    assert speaker.turns == twin.turns and len(speaker.turns) == 2
    chat._reply([speaker, other], "And the bird?", Colours())
    assert [turn["role"] for turn in other.turns] == ["user", "assistant"] and len(speaker.turns) == 4
    assert re.search(r"^runs/a\n.*\n^runs/b\n", capsys.readouterr().out, re.M | re.S)
    chat._command([speaker, other], "/system Be kind.")
    assert (speaker.turns, other.turns, other.system) == ([], [], "Be kind.")


def test_what_one_cannot_be_asked_none_is(speaker: Chat, other: Chat) -> None:
    other.system = "fox " * 60  # leaves less room
    with pytest.raises(UserError, match="too long"):
        ask_all([speaker, other], "bird " * 30)
    assert speaker.turns == other.turns == []


def test_answers_stand_beside_each_other_where_there_is_room(
    speaker: Chat, other: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers_of(monkeypatch, a="The red fox lives in the forest near the river.", b="No.\nNever.")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(chat, "columns", lambda: 76)
    chat._reply([speaker, other], "Where?", Colours())
    rows = capsys.readouterr().out.splitlines()
    assert [(row[:37].rstrip(), row[39:]) for row in rows if row] == [
        ("runs/a", "runs/b"),
        ("The red fox lives in the forest near", "No."),
        ("the river.", "Never."),
    ]
    monkeypatch.setattr(chat, "columns", lambda: 72)
    chat._reply([speaker, other], "Where?", Colours())
    assert "near the river.\nruns/b\nNo.\nNever.\n" in capsys.readouterr().out


def test_a_stop_ends_both_answers_and_the_next_question_can_be_asked(
    speaker: Chat, other: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> object:
        yield speaker.tokenizer.encode("fox")[0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, "stream", interrupted)
        chat._reply([speaker, other], "hello", Colours())
    assert "[stopped]" in capsys.readouterr().out
    assert other.turns[-1] == {"role": "assistant", "content": ""}
    chat._reply([speaker, other], "And now?", Colours())
    assert len(speaker.turns) == len(other.turns) == 4


def test_piped_answers_of_two_say_whose_they_are(
    speaker: Chat, other: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers_of(monkeypatch, a="In the forest.", b="No.")
    monkeypatch.setattr(chat, "load", lambda cfg: [speaker, other])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n[INST]\n"))
    with pytest.raises(SystemExit):
        chat.talk(config())
    assert capsys.readouterr().out == "runs/a: In the forest.\n\nruns/b: No.\n\nruns/a: \n\nruns/b: \n\n"


def test_a_second_checkpoint_that_is_not_there_is_named_by_its_key(speaker: Chat) -> None:
    with pytest.raises(UserError, match="against=runs/nosuch does not exist"):
        chat._load(config(), "against", "runs/nosuch")


def test_wide_characters_and_long_words_stay_in_their_column() -> None:
    rows = list(beside(["日本語 " * 12, "\n\nend"], ["x" * 90], 40))
    assert all(cell_len(row) <= 82 for row in rows)
    assert [row[-10:].count("x") for row in rows[:3]] == [10, 10, 10]
    assert rows[-2:] == ["", "end"]


def test_of_a_pipeline_the_last_model_that_chats_is_talked_to(tmp_path: Path) -> None:
    programs = {"pretrain": "pretrain", "sft": "sft", "v1_reward_safety": "reward", "ppo": "ppo", "judge_ppo": "judge"}
    stages = {name: {"program": program} for name, program in programs.items()}
    (tmp_path / "pipeline.json").write_text(json.dumps({"stages": stages}))
    assert chat._last_of(str(tmp_path)) == str(tmp_path)
    for name in ("pretrain", "sft", "v1_reward_safety"):
        (tmp_path / name / "final").mkdir(parents=True)
        assert chat._last_of(str(tmp_path)) == str(tmp_path / ("pretrain" if name == "pretrain" else "sft"))
    assert chat._last_of(str(tmp_path / "pretrain")) == str(tmp_path / "pretrain")
