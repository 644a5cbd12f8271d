"""The Llama tokenizer (paper 2.2): SentencePiece BPE with byte fallback.

Text is never normalised: any Unicode string comes back from `decode(encode(text))` unchanged, but for U+2581, which
SentencePiece uses for the space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from llamatrain import heartbeat
from llamatrain.errors import UserError, missing

MODEL_FILE = "tokenizer.model"
SPACE = "\u2581"  # how SentencePiece writes a space


class Tokenizer:
    """A SentencePiece model: text to token ids and back.

    `path` is a `tokenizer.model` or a folder that holds one (a checkpoint, the run folder of the program `tokenizer`).
    Raises MissingFileError where there is none, UserError where the file is no SentencePiece model with BOS and EOS, or
    where what follows the chat format's tag is not encoded by itself, with a space before it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / MODEL_FILE if path.is_dir() else path
        if not self.path.is_file() and (path / "tokenizer.json").is_file():
            raise UserError(
                f"{path} has tokenizer.json but no {MODEL_FILE}, the only format that is read: copy the {MODEL_FILE} of the "
                "model it was made from into it, or give its path with tokenizer=PATH"
            )
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
        self.unk_id: int = self._processor.unk_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise UserError(f"{self.path} has no BOS or no EOS piece; need both")
        if self.encode("[/INST] a") != self.encode("[/INST]") + self.encode("a"):
            raise UserError(
                f"{self.path}: an answer after [/INST] is not encoded as it is alone ({', '.join(self.unlike_llama())}); "
                "the chat format needs the space that SentencePiece puts before a text, and no piece across it"
            )
        self.fingerprint = hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of `text`, with BOS before and EOS after them where asked for."""
        heartbeat.beat("tokenize")
        ids: list[int] = self._processor.encode(text)
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def fewest(self, text: str) -> int:
        """Return a number of ids that `text` has at least, without encoding it: of a long one that takes a minute."""
        return len(text) // self._longest_piece  # a byte piece holds less than a character: it only adds to them

    @cached_property
    def _longest_piece(self) -> int:
        """The characters of the longest piece; without end where the settings let characters vanish."""
        return max(map(len, self.normal_pieces())) if not self.unlike_llama() else 1 << 62

    def encode_many(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of every text, without BOS and EOS."""
        ids: list[list[int]] = self._processor.encode(list(texts), num_threads=1)
        return ids

    def words_are_separate(self) -> bool:
        """Tell whether a text's ids are those of its words in turn, each with the spaces before it.

        True of a BPE model with Llama 2's settings: none of its pieces has a space after another character or holds a
        line break, so nothing is merged across either, and text is taken as it is.
        """
        normal = self.normal_pieces()
        crossing = any(SPACE in piece.lstrip(SPACE) or "\n" in piece for piece in normal)
        return SPACE in normal and not crossing and not self.unlike_llama()

    def unlike_llama(self) -> list[str]:
        """Return the settings of the model that are not Llama 2's, each as `name=value`."""
        from sentencepiece import sentencepiece_model_pb2  # here, because it brings protobuf and few ask

        model: Any = sentencepiece_model_pb2.ModelProto.FromString(self.model_bytes)  # type: ignore[attr-defined]
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        kind = trainer.ModelType.Name(trainer.model_type).lower()
        settings = {
            f"model_type={kind}": kind == "bpe",
            "byte_fallback=false": trainer.byte_fallback,
            f"normalization_rule_name={normalizer.name}": not normalizer.precompiled_charsmap,
            "add_dummy_prefix=false": normalizer.add_dummy_prefix,
            "remove_extra_whitespaces=true": not normalizer.remove_extra_whitespaces,
            "escape_whitespaces=false": normalizer.escape_whitespaces,
            "treat_whitespace_as_suffix=true": not trainer.treat_whitespace_as_suffix,
            "user_defined_symbols": all(piece.type != model.SentencePiece.USER_DEFINED for piece in model.pieces),
        }
        return [name for name, same in settings.items() if not same]

    def normal_pieces(self) -> list[str]:
        """Return the pieces that text is made of: neither control nor byte pieces nor the unknown one."""
        model = self._processor
        return [
            self.piece(i)
            for i in range(self.vocab_size)
            if not (model.is_byte(i) or model.is_control(i) or model.is_unknown(i))
        ]

    def piece(self, index: int) -> str:
        """Return the piece with this id."""
        piece: str = self._processor.id_to_piece(index)
        return piece

    def score(self, index: int) -> float:
        """Return the score of a piece; of two that could be merged, SentencePiece takes that with the higher one."""
        score: float = self._processor.get_score(index)
        return score

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
