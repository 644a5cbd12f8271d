"""Settings of the programs `tokenizer` and `pretrain`, and which programs this folder has. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import LOSS, LOSSES, Headline, Program
from llamatrain.errors import UserError
from llamatrain.keys import MEASURES, SPEED, above, check_values, least, one_of, reads
from llamatrain.manifest import checkpoint_folder
from llamatrain.model.config import HF_NAMES, ModelConfig, load_config
from llamatrain.settings import OptimConfig, RunConfig, SpikeConfig, ZeroConfig

from .corpus.config import ContaminationConfig, CorpusConfig, VerifyConfig

LARGE = 1e9  # parameters of a checkpoint from which on its layers are recomputed unless the user says otherwise
SHAPE = (*HF_NAMES, "tie_embeddings")  # of a model: what its weights were trained with


@dataclass
class TrainerConfig:
    """SentencePiece's trainer options under their own names."""

    model_type: str
    character_coverage: float
    input_sentence_size: int
    shuffle_input_sentence: bool
    max_sentence_length: int
    max_sentencepiece_length: int
    byte_fallback: bool
    split_digits: bool
    split_by_unicode_script: bool
    split_by_whitespace: bool
    split_by_number: bool
    treat_whitespace_as_suffix: bool
    allow_whitespace_only_pieces: bool
    normalization_rule_name: str
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int

    def __post_init__(self) -> None:
        """Refuse what Hugging Face's tokenizers cannot do as SentencePiece does it, or the chat format not without."""
        needed: dict[str, str | bool] = {
            "model_type": "bpe",
            "treat_whitespace_as_suffix": False,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": True,
            "remove_extra_whitespaces": False,
        }
        for key, value in needed.items():
            if (found := getattr(self, key)) != value:
                raise UserError(
                    f"trainer.{key}={_yaml(found)}: need {_yaml(value)}, as in Llama's tokenizer; any other value "
                    "would give tokenizer.json other ids than the model learns"
                )


def _yaml(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


@dataclass
class TokenizerConfig:
    """Settings of the program; configs/tokenizer.yaml explains the keys."""

    run: RunConfig
    documents: list[str] = field(metadata=reads("document"))
    vocab_size: int
    num_threads: int = field(metadata=SPEED)
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


@dataclass
class PretrainConfig:
    """What is trained on, and how; configs/pretrain.yaml says what each key means."""

    run: RunConfig
    model: ModelConfig
    optim: OptimConfig
    zero: ZeroConfig
    checkpoint: str | None = field(metadata=reads("checkpoint", "pretrain"))
    corpus: str = field(metadata=reads("corpus"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    tokens: float | None
    steps: int | None
    batch_tokens: int = field(metadata=least(1))
    seq_len: int | None
    micro_batch_size: int | None = field(metadata=least(1) | SPEED)
    isolate_documents: bool
    eval_sequences: int | None = field(metadata=least(1) | MEASURES)
    skip_samples: list[int]
    spikes: SpikeConfig
    compile: bool = field(metadata=SPEED)
    mixture: dict[str, float] | None
    peak_tflops: float | None = field(metadata=above(0) | MEASURES)

    def __post_init__(self) -> None:
        """Check values, and that the length is given once."""
        check_values(self)
        if self.checkpoint is None:
            self._cut_batches()
        elif Path(self.checkpoint).is_dir():  # else the program that reads it reports its absence
            self._take_shape(checkpoint_folder(self.checkpoint, "pretrain"))
            self._cut_batches()
        if (self.tokens is None) == (self.steps is None):
            raise UserError(f"tokens={self.tokens} and steps={self.steps}: need exactly one of them, the other null")
        if self.spikes.enabled and self.run.keep == 1:
            raise UserError(
                "run.keep=1: need 2 or more, or 0, with spikes.enabled=true, as the newest may lie in the spike"
            )
        if self.spikes.enabled and self.run.save_every == 0:
            raise UserError(
                "run.save_every=0: need 1 or more with spikes.enabled=true, as every spike would roll back to step 0"
            )
        if self.total_steps < 1:
            raise UserError(
                f"tokens={self.tokens} steps={self.steps}: need at least one step, {self.batch_tokens} tokens"
            )

    def _take_shape(self, folder: Path) -> None:
        """Put the shape of a checkpoint's model in the place of the preset's; UserError where the user gave another."""
        shape, scalar = load_config(folder)
        if scalar:
            raise UserError(f"checkpoint={self.checkpoint} is a reward model; need a language model")
        for name in SHAPE:
            asked, found = getattr(self.model, name), getattr(shape, name)
            if asked not in (None, found) and {"model", f"model.{name}"} & set(self.run.given):
                raise UserError(
                    f"model.{name}={asked}: checkpoint={self.checkpoint} has {found}, and its shape stays; need no model=..."
                )
        recomputed = self.model.activation_checkpointing
        if not {"model", "model.activation_checkpointing"} & set(self.run.given):  # the default model is not this one
            recomputed = "full" if shape.decoder_parameters >= LARGE else "none"
        self.model = replace(shape, activation_checkpointing=recomputed)

    def _cut_batches(self) -> None:
        """Take the model's context where no length is given, and check that a batch is whole sequences."""
        self.seq_len = self.model.max_seq_len if self.seq_len is None else self.seq_len
        if not 1 < self.seq_len <= self.model.max_seq_len:
            raise UserError(f"seq_len={self.seq_len}: need 2 to model.max_seq_len={self.model.max_seq_len}")
        if self.batch_tokens < self.seq_len or self.batch_tokens % self.seq_len:
            raise UserError(f"batch_tokens={self.batch_tokens}: need a multiple of seq_len={self.seq_len}")

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps; a last batch that would not be full is left out."""
        return self.steps if self.steps is not None else int((self.tokens or 0) // self.batch_tokens)


PROGRAMS = {
    "tokenizer": Program(
        "pretrain.tokenizer",
        "Data",
        "documents -> a SentencePiece tokenizer",
        schema=TokenizerConfig,
        makes=("", "tokenizer.model"),
        then="corpus run.name=corpus documents=my_texts.jsonl tokenizer={made}",
        headline=Headline({"tokenizer/vocab_size": "pieces"}, counts=True),
        size="vocabulary of {tokenizer/vocab_size}",
    ),
    "corpus": Program(
        "pretrain.corpus",
        "Data",
        "documents -> clean, memory-mapped token shards",
        schema=CorpusConfig,
        makes=("", "train", "eval"),
        then="pretrain run.name=base corpus={made} tokenizer={tokenizer} model=small tokens=3e6",
        headline=Headline({"corpus/train_tokens": "tokens", "corpus/train_documents": "documents"}, counts=True),
        size="{corpus/train_tokens} tokens",
    ),
    "corpus.verify": Program(
        "pretrain.corpus.verify",
        "Data",
        "a corpus -> its files checked against their sizes and hashes",
        schema=VerifyConfig,
    ),
    "corpus.contamination": Program(
        "pretrain.corpus.contamination",
        "Data",
        "how much of an evaluation set a corpus contains",
        schema=ContaminationConfig,
        makes=("contamination.json", "samples.jsonl"),
    ),
    "pretrain": Program(
        "pretrain",
        "Training",
        "a base model from tokens",
        parallel=True,
        plans=True,
        schema=PretrainConfig,
        makes=("final",),
        then="sft run.name=chat checkpoint={made} train=my_dialogues.jsonl",
        headline=Headline(LOSSES),
        model="Pretrained: continues text. It has seen no dialogues, and none of its answers was ever rated.",
        size="{parameters} parameters",
        trained_on="{tokens} tokens in {step} steps",
        charts=(LOSS,),
    ),
}
