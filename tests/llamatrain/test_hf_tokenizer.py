"""The saved tokenizer as transformers reads it: ids, chats, padding and decoded text, for all kinds of models."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from llamatrain import hf_folder, hf_tokenizer
from llamatrain.chat import encode_dialogue, encode_prompt
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.conftest import TEXT
from tests.test_tokenizer import texts

transformers = pytest.importorskip("transformers")
jinja2 = pytest.importorskip("jinja2")

LLAMA: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": 400,
    "character_coverage": 0.99995,
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
}
UNLIKE: dict[str, tuple[dict[str, Any], str]] = {  # kind of model -> its options, and what the warning names
    "SentencePiece's defaults": (
        {
            "model_type": "unigram",
            "vocab_size": 110,
            "byte_fallback": False,
            "normalization_rule_name": "nmt_nfkc",
            "remove_extra_whitespaces": True,
        },
        "model_type=unigram, byte_fallback=false, normalization_rule_name=nmt_nfkc, remove_extra_whitespaces=true",
    ),
    "unigram": ({"model_type": "unigram", "vocab_size": 370}, "model_type=unigram"),
    "nfkc": ({"normalization_rule_name": "nmt_nfkc"}, "normalization_rule_name=nmt_nfkc"),
    "extra whitespace": ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces=true"),
    "user symbols": ({"user_defined_symbols": ["<sep>", "fox"]}, "user_defined_symbols"),
    "suffix": ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix=true"),
    "words": ({"model_type": "word", "vocab_size": 320, "hard_vocab_limit": False}, "model_type=word"),
}


def trained(path: Path, **options: Any) -> Path:
    """Write a SentencePiece model with Llama's settings but for `options`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, minloglevel=2, **{**LLAMA, **options}
    )
    path.write_bytes(model.getvalue())
    return path


def merged(path: Path) -> Path:
    """Write a model with pieces of score 0 added, as vocabularies are merged: SentencePiece takes the leftmost of equals."""
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto.FromString(trained(path).read_bytes())  # type: ignore[attr-defined]
    known = {piece.piece for piece in model.pieces}
    words = sorted(set(TEXT.split()))
    parts = {word[i:j] for word in words for i in range(len(word)) for j in range(i + 2, min(len(word), i + 5) + 1)}
    for part in sorted(parts - known):
        model.pieces.add(piece=part, score=0.0, type=model.SentencePiece.NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    path.write_bytes(model.SerializeToString())
    return path


def loaded(tokenizer: Tokenizer, folder: Path, config: bool = True) -> Any:
    """Save the tokenizer, and return transformers' of the folder."""
    hf_tokenizer.save(tokenizer, folder)
    if config:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def dialogues(count: int) -> list[list[dict[str, str]]]:
    """Make dialogues of one to three turns, every second with a system message."""
    rng = random.Random(2)
    contents = [text for text in texts(300, seed=3) if text.strip() and "[INST]" not in text]
    made = []
    for number in range(count):
        system = [{"role": "system", "content": rng.choice(contents)}] if number % 2 else []
        roles = ("user", "assistant") * rng.randint(1, 3)
        made.append(system + [{"role": role, "content": rng.choice(contents)} for role in roles])
    return made


@pytest.mark.parametrize("config", [False, True], ids=["folder", "checkpoint"])
def test_transformers_has_the_same_ids(tokenizer: Tokenizer, tmp_path: Path, config: bool) -> None:
    theirs = loaded(tokenizer, tmp_path, config)
    for text in texts(200, seed=1):
        ids = tokenizer.encode(text)
        assert theirs.encode(text) == [tokenizer.bos_id, *ids], repr(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids) == text


def test_transformers_renders_the_chat_template_alike_and_finds_the_answers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = loaded(tokenizer, tmp_path)
    for dialogue in dialogues(60):
        ids, mask = encode_dialogue(dialogue, tokenizer)
        assert theirs.apply_chat_template(dialogue, return_dict=False) == ids
        assert theirs.apply_chat_template(dialogue[:-1], return_dict=False) == encode_prompt(dialogue[:-1], tokenizer)
        assert theirs(theirs.apply_chat_template(dialogue, tokenize=False), add_special_tokens=False).input_ids == ids
        found = theirs.apply_chat_template(dialogue, return_dict=True, return_assistant_tokens_mask=True)
        assert found["input_ids"] == ids
        assert found["assistant_masks"] == [int(trained) for trained in mask]


def test_an_answer_decoded_token_by_token_loses_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As servers stream it; the space that ends an answer in the chat format stays, for others would go with it."""
    from tokenizers.decoders import DecodeStream

    theirs = loaded(tokenizer, tmp_path)
    for text in filter(str.strip, texts(100, seed=4)):
        answer = f"{text.strip()} "
        ids = tokenizer.encode(answer, eos=True)
        stream = DecodeStream(skip_special_tokens=True)
        assert "".join(stream.step(theirs.backend_tokenizer, token) or "" for token in ids) == answer
        assert theirs.decode(ids, skip_special_tokens=True) == answer


def test_the_template_is_plain_jinja_but_for_the_markers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = loaded(tokenizer, tmp_path)
    plain = hf_tokenizer.CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(plain)
    for dialogue in dialogues(20):
        rendered = template.render(messages=dialogue, bos_token="<s>", eos_token="</s>")
        assert rendered == theirs.apply_chat_template(dialogue, tokenize=False)


@pytest.mark.parametrize("kind", [*UNLIKE, "merged"])
def test_a_model_unlike_llamas_is_said_and_read_by_sentencepiece_itself(tmp_path: Path, kind: str) -> None:
    options, named = UNLIKE.get(kind, ({}, "pieces of equal score"))
    tokenizer = Tokenizer((merged if kind == "merged" else trained)(tmp_path / "tokenizer.model", **options))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "tokenizer.json").write_text("of another model")
    theirs = loaded(tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    for text in texts(200, seed=1):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text), repr(text)
    for dialogue in dialogues(20):
        assert theirs.apply_chat_template(dialogue, return_dict=False) == encode_dialogue(dialogue, tokenizer)[0]
    said: list[str] = []
    hf_tokenizer.announce(tokenizer, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"warning: {tokenizer.path} is not a model like Llama 2's ({named}): tokenizer.json")


def test_without_byte_pieces_the_ids_are_still_the_same(tmp_path: Path) -> None:
    tokenizer = Tokenizer(trained(tmp_path / "tokenizer.model", byte_fallback=False, vocab_size=140))
    theirs = loaded(tokenizer, tmp_path / "saved")
    said: list[str] = []
    hf_tokenizer.announce(tokenizer, said.append)
    assert said == []
    assert all(theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text) for text in texts(200, seed=1))


def test_a_model_that_puts_no_space_before_a_text_is_refused(tmp_path: Path) -> None:
    path = trained(tmp_path / "tokenizer.model", add_dummy_prefix=False)
    with pytest.raises(
        UserError, match=rf"^{path}: an answer after \[/INST\] .*add_dummy_prefix=false.*needs? the space"
    ):
        Tokenizer(path)


def test_what_transformers_saved_again_comes_back_with_a_tokenizer(
    tokenizer: Tokenizer, model_config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = save_checkpoint(tmp_path / "ours", Transformer(model_config, seed=1), tokenizer)
    again = tmp_path / "again"  # as peft and TRL save, too: without tokenizer.model
    transformers.AutoModelForCausalLM.from_pretrained(ours).save_pretrained(again)
    transformers.AutoTokenizer.from_pretrained(ours).save_pretrained(again)
    with pytest.raises(UserError, match=rf"^{again} has tokenizer\.json but no tokenizer\.model.*tokenizer=PATH"):
        hf_folder.load_tokenizer(again)
    assert hf_folder.load_tokenizer(again, str(ours)).fingerprint == tokenizer.fingerprint
    assert hf_folder.load_tokenizer(ours, str(tokenizer.path)).fingerprint == tokenizer.fingerprint
    ids = torch.tensor([tokenizer.encode("Where does the fox live?", bos=True)])
    first, second = (hf_folder.load_model(folder)(ids) for folder in (ours, again))
    torch.testing.assert_close(first, second)
    other = trained(tmp_path / "other.model", vocab_size=390)
    with pytest.raises(UserError, match=rf"^tokenizer={other} is not the tokenizer in {ours}: need the same"):
        hf_folder.load_tokenizer(ours, str(other))
    assert "warning" not in capsys.readouterr().err


def test_a_tokenizer_of_another_size_than_the_model_is_said(
    tokenizer: Tokenizer, model_config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, warns in ((400 + 1023, False), (400 + 1024, True)):
        model = Transformer(replace(model_config, vocab_size=size), seed=1)
        folder = save_checkpoint(tmp_path / str(size), model, tokenizer)
        hf_folder.load_tokenizer(folder)
        said = capsys.readouterr().err
        assert said.startswith(f"warning: the model in {folder} has 1,424 embeddings") if warns else not said


def test_a_tokenizer_is_tried_once_however_often_it_is_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    hf_tokenizer._tried.cache_clear()
    for number in range(3):
        hf_tokenizer.save(tokenizer, tmp_path / str(number))
    assert hf_tokenizer._tried.cache_info().misses == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_reward_model_padded_with_the_folders_own_tokenizer_has_our_scores(
    tokenizer: Tokenizer, model_config: ModelConfig, tmp_path: Path, side: str
) -> None:
    model = ScalarModel(model_config, seed=1)
    torch.nn.init.normal_(model.score.weight)
    folder = save_checkpoint(tmp_path / "reward", model, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    if theirs.pad_token is None:  # what everybody's training scripts do
        theirs.pad_token = theirs.eos_token
    rated = transformers.LlamaForSequenceClassification.from_pretrained(folder)
    assert theirs.pad_token_id == rated.config.pad_token_id == 0
    conversations = dialogues(8)
    rendered = theirs.apply_chat_template(conversations, tokenize=False)
    batch = theirs(rendered, padding=True, add_special_tokens=False, return_tensors="pt")
    ours = []
    for dialogue in conversations:
        ids = torch.tensor([encode_dialogue(dialogue, tokenizer)[0]])
        ours.append(model(ids)[0, -1])
    torch.testing.assert_close(rated(**batch).logits[:, 0], torch.stack(ours), atol=1e-5, rtol=1e-5)
