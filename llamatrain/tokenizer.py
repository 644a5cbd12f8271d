"""The Llama tokenizer (paper 2.2): SentencePiece BPE with byte fallback, and its export for Hugging Face tools.

Text is never normalised: any Unicode string comes back from `decode(encode(text))` unchanged, but for U+2581, which
SentencePiece uses for the space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from llamatrain import atomic
from llamatrain.errors import UserError, missing

MODEL_FILE = "tokenizer.model"
SPACE = "\u2581"  # how SentencePiece writes a space

# The released chat format (`llamatrain.chat`) for transformers and vLLM.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Roles must alternate user/assistant/user/assistant, after an optional system message') -}}
  {%- endif -%}
  {%- if message['role'] == 'user' -%}
    {{- bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' -}}
  {%- else -%}
    {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""


class Tokenizer:
    """A SentencePiece model: text to token ids and back.

    `path` is a `tokenizer.model` or a folder that holds one (a checkpoint, the run folder of the program `tokenizer`).
    Raises MissingFileError where there is none, UserError where the file is no SentencePiece model with BOS and EOS.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / MODEL_FILE if path.is_dir() else path
        if not self.path.is_file():
            raise missing(self.path, made_by="tokenizer")
        self.model_bytes = self.path.read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model_bytes)
        except RuntimeError as error:
            raise UserError(f"{self.path} is not a SentencePiece model ({len(self.model_bytes)} bytes)") from error
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise UserError(f"{self.path} has no BOS or no EOS piece; a Llama tokenizer needs both")
        self.fingerprint = hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of `text`, with BOS before and EOS after them where asked for."""
        ids: list[int] = self._processor.encode(text)
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def encode_many(self, texts: Iterable[str], threads: int = 1) -> list[list[int]]:
        """Return the ids of every text, without BOS and EOS, on `threads` threads."""
        ids: list[list[int]] = self._processor.encode(list(texts), num_threads=threads)
        return ids

    def words_are_separate(self) -> bool:
        """Tell whether a text's ids are those of its words in turn, each with the spaces before it.

        True of a BPE model with Llama 2's settings: none of its pieces has a space after another character or holds a
        line break, so nothing is merged across either, and text is taken as it is.
        """
        from sentencepiece import sentencepiece_model_pb2  # here, because it brings protobuf and few ask

        model: Any = sentencepiece_model_pb2.ModelProto.FromString(self.model_bytes)  # type: ignore[attr-defined]
        trainer, normalizer, kinds = model.trainer_spec, model.normalizer_spec, model.SentencePiece
        plain = (
            trainer.model_type == trainer.BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and normalizer.add_dummy_prefix
            and normalizer.escape_whitespaces
            and not normalizer.remove_extra_whitespaces
        )
        normal = [piece.piece for piece in model.pieces if piece.type == kinds.NORMAL]
        special = any(piece.type == kinds.USER_DEFINED for piece in model.pieces)
        crossing = any(SPACE in piece.lstrip(SPACE) or "\n" in piece for piece in normal)
        return bool(plain and SPACE in normal and not special and not crossing)

    def piece_id(self, piece: str) -> int:
        """Return the id of a piece of the vocabulary, or that of the unknown piece."""
        index: int = self._processor.piece_to_id(piece)
        return index

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD.

        BOS and EOS leave nothing in it, nor do ids without a piece: those of a model's padded vocabulary.
        """
        text: str = self._processor.decode([i for i in map(int, ids) if i < self.vocab_size])
        return text

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.model, and tokenizer_config.json and tokenizer.json that give transformers the same ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(self._hf_config(), indent=2, ensure_ascii=False) + "\n"
        fast = json.dumps(self._hf_fast(), ensure_ascii=False) + "\n"
        atomic.write_bytes(folder / MODEL_FILE, self.model_bytes)
        atomic.write_text(folder / "tokenizer_config.json", config)
        atomic.write_text(folder / "tokenizer.json", fast)

    def _piece(self, index: int) -> str:
        piece: str = self._processor.id_to_piece(index)
        return piece

    def _hf_config(self) -> dict[str, Any]:
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._piece(self.bos_id),
            "eos_token": self._piece(self.eos_id),
            "unk_token": self._piece(self._processor.unk_id()),
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }

    def _hf_fast(self) -> dict[str, Any]:
        """The same model as a `tokenizers` file.

        Without it transformers 5 derives one from tokenizer.model that puts no space before a text which begins with
        one, or which follows BOS: other ids than SentencePiece's.
        """
        unk_id: int = self._processor.unk_id()
        special = sorted({unk_id, self.bos_id, self.eos_id})
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        bos = self._piece(self.bos_id)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": self._piece(i), **flags} for i in special],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": SPACE},
                    {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
                ],
            },
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [
                    {"SpecialToken": {"id": bos, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": bos, "type_id": 1}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {bos: {"id": bos, "ids": [self.bos_id], "tokens": [bos]}},
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": self._piece(unk_id),
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": {self._piece(i): i for i in range(self.vocab_size)},
                "merges": self._merges(),
            },
        }

    def _merges(self) -> list[list[str]]:
        """Every pair of pieces that makes a piece, best first: SentencePiece merges by the score of the result."""
        model = self._processor
        ids = [
            i for i in range(self.vocab_size) if not (model.is_byte(i) or model.is_control(i) or model.is_unknown(i))
        ]
        pieces = {self._piece(i): i for i in ids}
        ranked = sorted(pieces, key=lambda piece: (-model.get_score(pieces[piece]), pieces[piece]))
        splits = ((piece[:cut], piece[cut:]) for piece in ranked for cut in range(1, len(piece)))
        return [[left, right] for left, right in splits if left in pieces and right in pieces]
