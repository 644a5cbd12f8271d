"""TRL's side of against_trl.py: train as a plan says, save the model. It runs in an environment with trl.

python benchmarks/trl_side.py plan.json            # whole
python benchmarks/trl_side.py plan.json --in-turn  # as many steps at a time as a line of standard input says
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from turns import Turns


def main() -> None:
    """Train."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    rows = [json.loads(line) for line in Path(plan["rows"]).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(plan["start"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    arguments = {
        "output_dir": plan["out"],
        "per_device_train_batch_size": plan["batch"],
        "max_steps": plan["steps"],
        "learning_rate": max(plan["rates"]),
        "max_grad_norm": plan["grad_clip"],
        "weight_decay": plan["weight_decay"],
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": plan["seed"],
    }
    trainer = (reward if plan["task"] == "reward" else sft)(plan, rows, tokenizer, arguments)
    trainer.optimizer = optimizer(trainer.model, plan)
    rates = [rate / max(plan["rates"]) for rate in plan["rates"]]
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda step: rates[min(step, len(rates) - 1)]
    )
    if "--in-turn" in sys.argv:
        trainer.add_callback(InTurn())
    trainer.train()
    trainer.model.save_pretrained(plan["out"])
    tokenizer.save_pretrained(plan["out"])


class InTurn(TrainerCallback):  # type: ignore[misc]
    """Take steps when asked; say how much processor time they took."""

    def __init__(self) -> None:
        self.turns = Turns()

    def on_step_begin(self, *given: Any, **more: Any) -> None:
        """Wait to be asked, where no step is left to do."""
        self.turns.begin()

    def on_step_end(self, *given: Any, **more: Any) -> None:
        """Answer after the last one."""
        self.turns.end()


def reward(plan: dict[str, Any], rows: list[dict[str, Any]], tokenizer: Any, arguments: dict[str, Any]) -> Any:
    """Return a trainer of a reward model that takes the rows in their order."""

    class InOrder(RewardTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *given: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    model = AutoModelForSequenceClassification.from_pretrained(plan["start"], num_labels=1, dtype=torch.float32)
    settings = RewardConfig(**arguments, max_length=None, center_rewards_coefficient=plan["center"])
    return InOrder(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def sft(plan: dict[str, Any], rows: list[dict[str, Any]], tokenizer: Any, arguments: dict[str, Any]) -> Any:
    """Return a trainer on answers alone (the rows' labels), a dialogue a row."""
    model = AutoModelForCausalLM.from_pretrained(plan["start"], dtype=torch.float32)
    settings = SFTConfig(**arguments, max_length=plan["max_length"], packing=False)
    return SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def optimizer(model: Any, plan: dict[str, Any]) -> Any:
    """Return AdamW as ours is: matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    norms = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan["weight_decay"]}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=max(plan["rates"]), betas=plan["betas"], eps=plan["eps"])


if __name__ == "__main__":
    main()
