"""The tokenizer: ids, bytes, digits, round trips."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llamatrain import hf_tokenizer
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer

BYTE = 3  # id of the byte piece <0x00>

FRAGMENTS = [
    *"the fox lives 0123456789.,'\"?!\n\t",
    "  ", "    ", "é", "ß", "日本", "🙂", "👩‍👩‍👧", "\u00a0", "\u200b", "e\u0301", "\x01", "𝔘", "the ", "river", "[INST]", "\0",
]  # fmt: skip


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(FRAGMENTS, k=rng.randint(0, 30))) for _ in range(count)]


def test_special_ids_and_bos_eos(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 400)
    plain = tokenizer.encode("the fox")
    assert tokenizer.encode("the fox", bos=True, eos=True) == [1, *plain, 2]
    assert tokenizer.encode("") == []
    assert tokenizer.encode("", bos=True, eos=True) == [1, 2]


def test_unknown_characters_become_their_utf8_bytes(tokenizer: Tokenizer) -> None:
    space = tokenizer.encode(" x")[0]  # the run of two spaces: the dummy prefix and our own
    assert tokenizer.decode([1, space]) in ("", " ")
    assert tokenizer.encode("日")[1:] == [BYTE + byte for byte in "日".encode()]
    assert tokenizer.encode("\n")[1:] == [BYTE + 10]


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    number = tokenizer.encode("2024 12")
    singles = {digit: tokenizer.encode(digit)[-1] for digit in "0123456789"}
    space = number[0]
    assert number == [space, *(singles[d] for d in "2024"), space, *(singles[d] for d in "12")]


def test_any_text_round_trips(tokenizer: Tokenizer) -> None:
    for text in texts(500):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) == text
        assert tokenizer.decode([*tokenizer.encode(text), tokenizer.vocab_size]) == text  # of a padded vocabulary


def test_encode_many_equals_encode(tokenizer: Tokenizer) -> None:
    samples = texts(50)
    assert tokenizer.encode_many(samples) == [tokenizer.encode(t) for t in samples]


def test_control_pieces_in_text_are_text(tokenizer: Tokenizer) -> None:
    assert not {0, 1, 2} & set(tokenizer.encode("<s> <unk> </s>"))


def test_folder_and_file_are_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    hf_tokenizer.save(tokenizer, tmp_path)
    assert (
        Tokenizer(tmp_path).fingerprint == Tokenizer(tmp_path / "tokenizer.model").fingerprint == tokenizer.fingerprint
    )


def test_missing_and_broken_files_are_the_users_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="llamatrain tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"tokenizer\.model is not a SentencePiece model"):
        Tokenizer(tmp_path)
