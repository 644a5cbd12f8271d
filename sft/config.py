"""Settings of the program `sft`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import check_bad_rows
from llamatrain.description import LOSSES, Headline, Program, Table
from llamatrain.errors import UserError
from llamatrain.keys import MEASURES, SPEED, reads
from llamatrain.settings import OptimConfig, RunConfig, ZeroConfig


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
    epochs: float
    batch_sequences: int
    micro_batch_size: int | None = field(metadata=SPEED)
    seq_len: int | None
    too_long: str
    bad_rows: str
    loss: str
    isolate: bool
    replay: str | None = field(metadata=reads("corpus"))
    replay_fraction: float
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        if not self.train:
            raise UserError("train=[]: need at least one dialogues file")
        if self.epochs <= 0:
            raise UserError(f"epochs={self.epochs}: need a positive number")
        check_bad_rows(self.bad_rows)
        for key, choices in (("too_long", ("skip", "stop", "drop_turns")), ("loss", ("all", "last"))):
            if getattr(self, key) not in choices:
                raise UserError(f"{key}={getattr(self, key)}: need one of {', '.join(choices)}")


PROGRAMS = {
    "sft": Program(
        "sft",
        "Training",
        "supervised fine-tuning on dialogues",
        parallel=True,
        schema=SFTConfig,
        makes=("final",),
        headline=Headline(LOSSES),
        model="Supervised fine-tuning (SFT): imitates the answers of written dialogues.",
        trained_on="{rows of train:,} dialogues",
        chats=True,
        curve=True,
        learns_from=(Table("Dialogues", "dialogue", key="train"),),
    )
}
