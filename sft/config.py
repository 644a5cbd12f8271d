"""Settings of the program `sft`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.chat import check_messages
from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import LOSS, LOSSES, Headline, Program, Table
from llamatrain.errors import UserError
from llamatrain.keys import MEASURES, SPEED, above, check_values, least, one_of, reads
from llamatrain.responses.config import TOO_LONG
from llamatrain.settings import PRECISIONS, OptimConfig, RunConfig, SamplingConfig, ZeroConfig


@dataclass
class SFTConfig:
    """What is trained on, and how; configs/sft.yaml says what each key means."""

    run: RunConfig
    optim: OptimConfig
    zero: ZeroConfig
    checkpoint: str = field(metadata=reads("checkpoint", "pretrain"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    train: list[str] = field(metadata=reads("dialogue"))
    eval: list[str] = field(metadata=reads("dialogue") | MEASURES)
    epochs: float = field(metadata=above(0))
    batch_sequences: int = field(metadata=least(1))
    micro_batch_size: int | None = field(metadata=least(1) | SPEED)
    max_length: int | None
    too_long: str = field(metadata=one_of(("skip", "stop", "drop_turns")))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    loss: str = field(metadata=one_of(("all", "last")))
    isolate_documents: bool
    replay: str | None = field(metadata=reads("corpus"))
    replay_fraction: float
    activation_checkpointing: str = field(metadata=SPEED)
    samples_every: int = field(metadata=least(0) | MEASURES)
    samples_kept: int = field(metadata=least(1) | MEASURES)
    sampling: SamplingConfig = field(metadata=MEASURES)

    def __post_init__(self) -> None:
        """Check values."""
        if not self.train:
            raise UserError("train=[]: need at least one dialogues file")
        self.run.need_held_out(bool(self.eval), "held-out dialogues to stop early by (eval)")
        check_values(self)


@dataclass
class InspectConfig:
    """What is looked at; configs/inspect.yaml says what each key means."""

    sources: list[str]
    test: list[str]
    tokenizer: str | None
    loss: str = field(metadata=one_of(("all", "last")))
    max_length: int | None = field(metadata=least(1))
    examples: int = field(metadata=least(0))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    page: str | None

    def __post_init__(self) -> None:
        """Check values."""
        if not self.sources:
            raise UserError("sources=[]: need at least one file or data set")
        check_values(self)


@dataclass
class Preprompts:
    """What is said before an adversarial prompt; configs/preprompts/ says what each key means."""

    generic: list[str]
    adjectives: list[str]
    categories: dict[str, str]

    def __post_init__(self) -> None:
        """Check that there is a preprompt for any prompt, and that each can be a system message."""
        for key, texts in (("generic", self.generic), ("adjectives", self.adjectives)):
            if not texts:
                raise UserError(f"preprompts.{key}=[]: need at least one")
        named = {f"preprompts.generic.{i}": text for i, text in enumerate(self.generic)}
        for key, text in (
            named | {f"preprompts.categories.{name}": one for name, one in self.categories.items()}
        ).items():
            if not text.strip():
                raise UserError(f"{key}={text!r}: need a text")
            check_messages([{"role": "system", "content": text}, {"role": "user", "content": "?"}], key)


@dataclass
class DistillConfig:
    """What is distilled, from which model; configs/distill.yaml says what each key means."""

    run: RunConfig
    preprompts: Preprompts
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    safety: str = field(metadata=reads("checkpoint", "reward"))
    prompts: list[str] = field(metadata=reads("prompt"))
    max_prompts: int | None = field(metadata=least(1))
    samples_per_prompt: int = field(metadata=least(1))
    round: int | None = field(metadata=least(1))
    require_better: bool
    sampling: SamplingConfig
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    score_batch_size: int = field(metadata=least(1) | SPEED)
    chunk_pairs: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check values, and that the answers to a prompt may differ."""
        check_values(self)
        if self.samples_per_prompt > 1 and self.sampling.temperature == 0:
            raise UserError(
                f"samples_per_prompt={self.samples_per_prompt}: need 1 with sampling.temperature=0, as greedy answers "
                "after one preprompt are the same"
            )


@dataclass
class ConversationConfig:
    """Which model answers which dialogues' users under which instructions, turn by turn."""

    run: RunConfig
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    dialogues: list[str] = field(metadata=reads("dialogue"))
    max_dialogues: int | None = field(metadata=least(1))
    constraints: str | None = field(metadata=reads("file", "toyworld"))
    sampling: SamplingConfig
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    chunk_dialogues: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if not self.dialogues:
            raise UserError("dialogues=[]: need at least one dialogues file")


@dataclass
class GAttConfig(ConversationConfig):
    """What Ghost Attention trains on; configs/gatt.yaml says what each key means."""

    min_turns: int = field(metadata=least(1))
    max_turns: int = field(metadata=least(1))
    rows_per_dialogue: int = field(metadata=least(1))
    short_fraction: float = field(metadata=least(0, 1))
    round: int | None = field(metadata=least(1))

    def __post_init__(self) -> None:
        """Check values and their order."""
        super().__post_init__()
        if self.max_turns < self.min_turns:
            raise UserError(f"max_turns={self.max_turns}: need min_turns={self.min_turns} or more")


@dataclass
class RecallConfig(ConversationConfig):
    """How long a model keeps to an instruction; configs/recall.yaml says what each key means."""

    turns: list[int]

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if not self.turns or min(self.turns) < 1 or sorted(set(self.turns)) != list(self.turns):
            raise UserError(f"turns={self.turns}: need rising numbers of turns, from 1")


PROGRAMS = {
    "inspect": Program(
        "sft.inspect",
        "Data",
        "any file or data set -> counts, faults, and what would be trained",
        schema=InspectConfig,
    ),
    "sft": Program(
        "sft",
        "Training",
        "supervised fine-tuning on dialogues",
        parallel=True,
        plans=True,
        schema=SFTConfig,
        makes=("final",),
        then="chat checkpoint={made}",
        headline=Headline(LOSSES),
        model="Supervised fine-tuning (SFT): imitates the answers of written dialogues.",
        size="{sft/dialogues} dialogues",
        trained_on="{sft/dialogues} dialogues",
        chats=True,
        charts=(LOSS,),
        learns_from=(Table("Dialogues", "dialogue", key="train"),),
        course="samples.jsonl",
    ),
    "distill": Program(
        "sft.distill",
        "Data",
        "safety context distillation: answers made with a safety preprompt, for fine-tuning without it",
        parallel=True,
        schema=DistillConfig,
        makes=("distilled.jsonl", "refused.jsonl"),
        headline=Headline({"distill/kept": "kept", "distill/pairs": "pairs"}, counts=True),
        size="{distill/kept} of {distill/pairs} answers",
        learns_from=(
            Table("Distilled answers", "distilled", file="distilled.jsonl"),
            Table("Refused by distillation", "refused", file="refused.jsonl"),
        ),
    ),
    "gatt": Program(
        "sft.gatt",
        "Data",
        "Ghost Attention: dialogues that keep to an instruction of their first turn",
        parallel=True,
        schema=GAttConfig,
        makes=("gatt.jsonl",),
        headline=Headline({"gatt/rows": "rows", "gatt/dialogues": "dialogues"}, counts=True),
        size="{gatt/rows} rows of {gatt/dialogues} dialogues",
        learns_from=(Table("Ghost Attention", "dialogue", file="gatt.jsonl"),),
    ),
    "recall": Program(
        "sft.recall",
        "Measuring",
        "how long a chat model keeps to an instruction of the first turn",
        parallel=True,
        schema=RecallConfig,
        makes=("recall.jsonl",),
        headline=Headline({f"recall/turn_{turn}": f"at turn {turn}" for turn in (2, 4, 6, 20)}, whose="recall "),
        size="{recall/dialogues} dialogues",
    ),
}
