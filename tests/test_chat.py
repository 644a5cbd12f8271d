"""The chat format: the released code's ids, the loss mask, prefixes, refusals."""

from __future__ import annotations

import random

import pytest

from llamatrain.chat import (
    TAGS,
    Message,
    TagError,
    check_messages,
    decode_response,
    encode_dialogue,
    encode_prompt,
    without_oldest_turn,
)
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

from .test_tokenizer import texts


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def released(turns: list[str], tokenizer: Tokenizer) -> list[int]:
    """Each turn as one text with BOS, all but an unanswered one with EOS: what the released code does."""
    return [token for turn in turns for token in tokenizer.encode(turn, bos=True, eos=not turn.endswith("[/INST]"))]


def test_ids_are_those_of_the_released_code(tokenizer: Tokenizer) -> None:
    messages = [system("Be kind."), user("  Hello? "), assistant(" Hi, Tom! "), user("Bye 12"), assistant("Bye.")]
    first = "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n  Hello? [/INST] Hi, Tom! "
    assert encode_dialogue(messages, tokenizer)[0] == released([first, "[INST] Bye 12 [/INST] Bye. "], tokenizer)
    assert encode_prompt(messages[:-1], tokenizer) == released([first, "[INST] Bye 12 [/INST]"], tokenizer)


def test_ids_are_those_of_the_released_code_for_any_text(tokenizer: Tokenizer) -> None:
    contents = [text.replace("[INST]", "") for text in texts(400, seed=4)]
    for question, answer in zip(contents[::2], contents[1::2], strict=True):
        if question.strip():
            whole = released([f"[INST] {question.strip()} [/INST] {answer.strip()} "], tokenizer)
            assert encode_dialogue([user(question), assistant(answer)], tokenizer)[0] == whole


def test_a_prompt_is_a_prefix_of_its_dialogue(tokenizer: Tokenizer) -> None:
    rng = random.Random(5)
    contents = [text for text in texts(300, seed=6) if text.strip() and "[INST]" not in text]
    for _ in range(100):
        turns = [role(rng.choice(contents)) for _ in range(rng.randint(1, 4)) for role in (user, assistant)]
        whole, _ = encode_dialogue(turns, tokenizer)
        for end in range(1, len(turns), 2):
            prompt = encode_prompt(turns[:end], tokenizer)
            assert whole[: len(prompt)] == prompt


def spans(tokens: list[int], mask: list[bool], tokenizer: Tokenizer) -> list[str]:
    """The decoded runs of targets, each of which must end in EOS."""
    found: list[list[int]] = []
    for previous, (token, target) in zip([False, *mask], zip(tokens, mask, strict=True), strict=False):
        if target and not previous:
            found.append([])
        if target:
            found[-1].append(token)
    assert all(run[-1] == tokenizer.eos_id and tokenizer.eos_id not in run[:-1] for run in found)
    return [tokenizer.decode(run) for run in found]


def test_targets_are_exactly_the_answers_with_space_and_eos(tokenizer: Tokenizer) -> None:
    messages = [system("S"), user("one"), assistant("The fox."), user("two"), assistant(" 12 apples\n")]
    tokens, mask = encode_dialogue(messages, tokenizer)
    assert spans(tokens, mask, tokenizer) == ["The fox. ", "12 apples "]
    tokens, mask = encode_dialogue(messages, tokenizer, loss="last")
    assert spans(tokens, mask, tokenizer) == ["12 apples "]


def test_an_empty_answer_trains_its_end(tokenizer: Tokenizer) -> None:
    tokens, mask = encode_dialogue([user("one"), assistant("")], tokenizer)
    assert tokens == released(["[INST] one [/INST]  "], tokenizer)
    assert mask[-1]
    assert spans(tokens, mask, tokenizer)[0].strip() == ""


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_refused_but_in_the_last_answer(tag: str, tokenizer: Tokenizer) -> None:
    text = f"a {tag} b"
    for prompt in ([user(text)], [system(text), user("x")], [user("x"), assistant(text), user("y")]):
        with pytest.raises(TagError, match="may not contain"):
            encode_prompt(prompt, tokenizer)
        with pytest.raises(TagError):
            encode_dialogue([*prompt, assistant("z")], tokenizer)
    encode_dialogue([user("x"), assistant(text)], tokenizer)


@pytest.mark.parametrize(
    ("messages", "parts"),
    [
        ([], ["found []", "need a list"]),
        ("hello", ["found 'hello'"]),
        ([{"role": "user"}], ["[0].content", "found None", "need a text"]),
        ([user(" ")], ["[0].content", "found ' '", "text of the user"]),
        ([user("\ud800")], ["[0].content", "surrogate"]),
        ([assistant("x")], ["[0].role", "found 'assistant'", "need 'user'"]),
        ([user("x"), user("y")], ["[1].role", "found 'user'", "need 'assistant'"]),
        ([user("x"), system("y")], ["[1].role", "found 'system'", "only come first"]),
        ([system("x")], ["system message only"]),
        ([user("x"), {"role": "human", "content": "y"}], ["[1].role", "found 'human'"]),
        ([user("x"), assistant("y")], ["ends with 'assistant'", "need to end with 'user'"]),
    ],
)
def test_bad_messages_name_place_found_and_need(messages: object, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_messages(messages, "file:7: messages", ends="user")
    assert all(part in str(caught.value) for part in ["file:7: messages", *parts]), str(caught.value)


def test_unknown_loss_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="loss='first'"):
        encode_dialogue([user("x"), assistant("y")], tokenizer, loss="first")  # type: ignore[arg-type]


def test_decode_response_stops_at_eos(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The fox lives. ", eos=True)
    assert decode_response([*ids, *tokenizer.encode("more")], tokenizer) == "The fox lives."
    assert decode_response(ids[:-2], tokenizer) == "The fox lives."
    assert decode_response([tokenizer.eos_id], tokenizer) == ""


def test_the_oldest_turn_goes_and_the_system_message_stays() -> None:
    messages = [system("S"), user("1"), assistant("a"), user("2"), assistant("b")]
    assert without_oldest_turn(messages) == [system("S"), user("2"), assistant("b")]
    assert without_oldest_turn(messages[:1] + messages[3:]) is None
    assert without_oldest_turn([user("1"), assistant("a"), user("2")]) == [user("2")]
    assert without_oldest_turn([user("2")]) is None
