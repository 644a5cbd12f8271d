"""A tiny world on disk: what every training program needs, and the overrides that make each a matter of a second."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.tokenizer import Tokenizer
from tests.conftest import TEXT
from tests.corpora import write_corpus
from tests.rlhf.worlds import make_world

from .worker import MODEL

PROGRAMS = ("pretrain", "sft", "reward", "rejection_sampling", "ppo")
STEPS = 6
QUIET = ["run.progress=false", "run.wandb.mode=disabled", "run.save_every=2", "run.eval_every=3"]
TINY = ["model=tiny", "model.dim=32", "model.n_layers=2", "model.hidden_dim=64", "optim.warmup_steps=2"]
RATE = "optim.lr=1e-2"


def make_programs(folder: Path, tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Write a world; return program -> its overrides but for run.dir and run.name: six steps on one or two ranks."""
    world = make_world(folder / "world", replace(MODEL, max_seq_len=128), tokenizer)
    dialogues = folder / "world" / "sft.jsonl"
    documents: list[dict[str, Any]] = [{"text": line, "source": "test"} for line in TEXT.splitlines()]
    for part, rows in (("train", documents * 4), ("eval", documents[:3])):
        write_rows(folder / f"{part}.jsonl", rows)
        write_corpus(folder / "corpus" / part, [str(folder / f"{part}.jsonl")], tokenizer)
    answers = ["The red fox lives in the forest.", "I cannot help with that.", "A whale."]
    pairs = [
        {
            "messages": [{"role": "user", "content": f"Where does the red fox live? {i}"}],
            "chosen": answers[i % 3],
            "rejected": answers[(i + 1) % 3],
            "kind": "helpfulness",
        }
        for i in range(12)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    # Five: no two ranks can share them equally.
    write_rows(folder / "pairs_eval.jsonl", pairs[:5])
    write_rows(folder / "dialogues_eval.jsonl", islice(read_rows(dialogues, DialogueRow), 5))
    start = f"checkpoint={world['checkpoint']}"
    judged = [start, f"prompts={world['prompts']}", *(f"{k}={world[k]}" for k in ("helpfulness", "safety"))]
    rows_of_four = ["batch_sequences=4", "max_length=64", RATE]
    special = {
        "pretrain": [
            *(f"corpus={folder / 'corpus'}", f"tokenizer={tokenizer.path}", *TINY, RATE),
            *("tokens=null", f"steps={STEPS}", "seq_len=32", "batch_tokens=128", "micro_batch_size=1"),
        ],
        "sft": [
            start,
            f"train=[{dialogues}]",
            f"eval=[{folder / 'dialogues_eval.jsonl'}]",
            "epochs=2",
            *rows_of_four,
        ],  # micro-batches as memory allows
        "reward": [
            *(start, "kind=helpfulness", f"train=[{folder / 'pairs.jsonl'}]", f"eval=[{folder / 'pairs_eval.jsonl'}]"),
            *("epochs=2", "batch_pairs=4", "micro_batch_size=2", RATE),
        ],
        "rejection_sampling": [
            *(*judged, f"base={world['checkpoint']}", f"sft_train=[{dialogues}]", f"steps={STEPS}", *rows_of_four),
            *("micro_batch_size=1", "samples_per_prompt=4", "chunk_responses=8", "sampling.max_new_tokens=40"),
        ],
        "ppo": [
            *(*judged, f"iterations={STEPS}", "rollout_prompts=8", "mini_batch_prompts=4", "micro_batch_size=2"),
            *(
                "sampling.max_new_tokens=20",
                "epochs=1",
                "samples_every=1",
                "chunk_responses=2",
                RATE,
                "critic_optim.lr=1e-2",
            ),
        ],
    }
    return {program: [*QUIET, *overrides] for program, overrides in special.items()}
