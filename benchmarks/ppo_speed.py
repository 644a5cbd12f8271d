"""Speed of PPO: llamatrain and TRL's PPOTrainer, in alternation; or two ranks of llamatrain and one.

    PEERS/bin/pip install --no-deps --target PEERS/ppo trl==1.12.0    # the newest that has it; PEERS as for finetuning_speed.py
    PEER="env PYTHONPATH=PEERS/ppo PEERS/bin/python"
    python benchmarks/ppo_speed.py --size S --source oasst:en_100_tree.jsonl --peer "$PEER"
    python benchmarks/ppo_speed.py --size S --source oasst:en_100_tree.jsonl --ranks

A policy and reward models of the size with random weights, the same for both, and 64 prompts of 32 tokens from the source. An
iteration samples 64 tokens to each (EOS is never drawn), judges them and learns in mini-batches of 8, one epoch. Ours is the
program `ppo` itself, from what it reads to the experience it stores; a stand-in for its heartbeat hears where an iteration
begins and a phase ends. It judges with two reward models, TRL with one, and measures the policy's log-probabilities again, where
TRL takes the sampler's; with `--old-logprobs sampler` so does ours. Every side is a process of its own with one thread; rates
are by processor time, with `--ranks` by the clock. A line goes to results/ppo_speed.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pretraining_speed import SIZES
from random_models import config_of, end_by_chance, write_model, write_tokenizer
from recorded import ROOT
from turns import Answer, Turns, alternated, record

ROLLOUTS, MINI_BATCH, PROMPT, NEW, CONTEXT = 64, 8, 32, 64, 256  # responses, and tokens
WARM_UP, EOS = 2, 2  # iterations (the first one rescales the critic), token
RATE = 1e-6
PHASES = ("act", "judge", "learn")
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Alternate the sides, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--source", help="dialogues, with the name of their form, whose questions are the prompts")
    parser.add_argument("--peer", help="command of a python with trl 1.12.0")
    parser.add_argument("--ranks", action="store_true", help="two ranks of ours against one, in place of TRL")
    parser.add_argument("--old-logprobs", choices=["policy", "sampler"], default="policy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="iterations in turn")
    parser.add_argument("--worker", choices=["llamatrain", "TRL"])
    parser.add_argument("--folder", type=Path, help="of the models, for a worker")
    parser.add_argument("--name", help="of the run, for a worker")
    options = parser.parse_args()
    if options.worker:
        (own_side if options.worker == "llamatrain" else trl_side)(options)
        return 0
    if not options.source or not (options.peer or options.ranks):
        parser.error("need --source, and --peer or --ranks")
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        prepare(options)
        answers = alternated(commands(options), options.folder, (options.rounds, options.steps, WARM_UP), rate)
        for run in options.folder.glob("runs/*/metrics.jsonl"):
            check([json.loads(line) for line in run.read_text().splitlines()][1:])
    clock = "second" if options.ranks else "second of processor time"
    shares = {name: [share(given, phase) for phase in PHASES] for name, given in answers.items()}
    about = {"size": options.size, "ranks": options.ranks, "steps": options.steps, "act_judge_learn": shares}
    about |= {"old_logprobs": options.old_logprobs}
    rates = {name: [rate(one) for one in given] for name, given in answers.items()}
    record("ppo_speed", about, f"{options.size} | episodes per {clock}", rates)
    for name, of in shares.items():
        print(f"{name}: " + ", ".join(f"{phase} {one:.0%}" for phase, one in zip(PHASES, of, strict=True)))
    return 0


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each side."""
    worker = [__file__, "--size", options.size, "--folder", str(options.folder), "--old-logprobs", options.old_logprobs]
    own = [*worker, "--worker", "llamatrain", *(["--ranks"] if options.ranks else [])]
    if options.ranks:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return {
            "two ranks": [sys.executable, *launcher, *own, "--name", "two"],
            "one rank": [sys.executable, *own, "--name", "one"],
        }
    return {
        "llamatrain": [sys.executable, *own, "--name", "one"],
        "TRL": [*shlex.split(options.peer), *worker, "--worker", "TRL"],
    }


def rate(answer: Answer) -> float:
    """Return the episodes of a second."""
    return float(answer["steps"] * ROLLOUTS / answer["seconds"])


def share(answers: list[Answer], phase: str) -> float:
    """Return which part of all seconds a phase took; of TRL's learning is what is no other phase."""
    whole = sum(answer["seconds"] for answer in answers)
    took = {name: sum(answer["parts"].get(name, 0.0) for answer in answers) for name in PHASES}
    rest = whole - took["act"] - took["judge"]
    return round((took[phase] or rest) / whole, 3)


def check(metrics: list[dict[str, Any]]) -> None:
    """Refuse a run that sampled less than its full length, or whose policy waited for its critic."""
    if not all(row["ppo/response_length"] == NEW and not row["ppo/held"] for row in metrics):
        raise SystemExit("a response ended, or the policy did not learn: the sides did not do the same work")


# --- what both sides get -----------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Write policy, reward models, and the prompts, as rows of text and as tokens."""
    from llamatrain.data.kinds import DialogueRow
    from llamatrain.data.rows import read_rows
    from llamatrain.model.scalar_head import ScalarModel
    from llamatrain.model.transformer import Transformer

    said = [turn for row in read_rows(options.source, DialogueRow) for turn in row["messages"]]
    policy, config = options.folder / "policy", config_of(options.size, CONTEXT)
    tokenizer = write_tokenizer(policy, options.size, (turn["content"] for turn in said))
    for seed, name in enumerate(("helpfulness", "safety"), 1):
        shutil.copytree(policy, options.folder / name)
        write_model(options.folder / name, ScalarModel(config, seed), scalar=True)
    model = Transformer(config, seed=0)
    end_by_chance(model, EOS, logit=-100)
    write_model(policy, model, scalar=False)
    prompts: dict[str, list[int]] = {}
    for text in (turn["content"] for turn in said if turn["role"] == "user"):
        if len(prompts) < ROLLOUTS and (found := cut(text, tokenizer)):
            prompts[found[0]] = found[1]
    if len(prompts) < ROLLOUTS:
        raise SystemExit(f"{options.source} has {len(prompts)} questions to cut to {PROMPT} tokens: need {ROLLOUTS}")
    with (options.folder / "prompts.jsonl").open("w") as file:
        for number, text in enumerate(prompts):
            row = {"id": str(number), "messages": [{"role": "user", "content": text}], "source": "cut"}
            file.write(json.dumps({**row, "is_adversarial": bool(number % 2)}) + "\n")
    (options.folder / "tokens.json").write_text(json.dumps(list(prompts.values())))


def cut(text: str, tokenizer: Any) -> tuple[str, list[int]] | None:
    """Return the beginning of a question that, as a prompt, has the wanted number of tokens, and these; None without any."""
    from llamatrain.chat import encode_prompt

    for length in range(1, len(text) + 1):
        tokens = encode_prompt([{"role": "user", "content": text[:length].strip() or "?"}], tokenizer)
        if len(tokens) >= PROMPT:
            return (text[:length].strip(), tokens) if len(tokens) == PROMPT else None
    return None


# --- the sides ---------------------------------------------------------------------------------------------------


def own_side(options: argparse.Namespace) -> None:
    """Run the program `ppo`, which waits for its turn where an iteration begins."""
    import rlhf.ppo
    from llamatrain import distributed, heartbeat
    from llamatrain.config.compose import compose
    from rlhf.ppo_config import PPOConfig

    distributed.setup()
    turns = Turns(
        time.perf_counter if options.ranks else time.process_time,
        lambda: distributed.broadcast_object(sys.stdin.readline() if distributed.is_main() else ""),
        distributed.is_main(),
    )

    def begins(done: int) -> None:
        heartbeat.at_step(done)
        if done:
            turns.end()
        turns.begin()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        with heartbeat.phase(name), turns.part(name):
            yield

    vars(rlhf.ppo)["heartbeat"] = SimpleNamespace(at_step=begins, phase=timed)  # of its loop alone
    given = {key: options.folder / key for key in ("helpfulness", "safety")}
    given |= {"checkpoint": options.folder / "policy", "prompts": f"[{options.folder / 'prompts.jsonl'}]"}
    given |= {"run.dir": options.folder / "runs", "run.name": options.name, "run.wandb.mode": "disabled"}
    given |= {"rollout_prompts": ROLLOUTS, "mini_batch_prompts": MINI_BATCH, "sampling.max_new_tokens": NEW}
    given |= {"optim.lr": RATE, "iterations": 10_000, "run.save_every": 10_000, "run.hang_minutes": 0}
    given |= {"old_logprobs": options.old_logprobs}
    given["gate.unfinished_logit"] = 100  # no response ends: none is to be held below the others
    rlhf.ppo.train(compose("ppo", PPOConfig, [f"{key}={value}" for key, value in given.items()]))


def trl_side(options: argparse.Namespace) -> None:
    """Run TRL's trainer, in an environment of its own."""
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    turns = Turns()
    judging, learning = turns.part("judge")(ppo_trainer.forward), ppo_trainer.forward
    ppo_trainer.batch_generation = turns.part("act")(ppo_trainer.batch_generation)
    ppo_trainer.get_reward = turns.part("judge")(ppo_trainer.get_reward)
    ppo_trainer.forward = lambda *given: (learning if torch.is_grad_enabled() else judging)(*given)

    class InTurn(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *given: Any, **more: Any) -> None:
            turns.begin()

        def on_step_end(self, *given: Any, **more: Any) -> None:
            turns.end()
            turns.begin()

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.folder / "policy", padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token  # which no prompt holds and none samples: nothing is taken for padding
    language = functools.partial(transformers.AutoModelForCausalLM.from_pretrained, options.folder / "policy")
    scalar = transformers.AutoModelForSequenceClassification.from_pretrained
    models: dict[str, Any] = {name: language(dtype=torch.float32) for name in ("model", "ref_model")}
    for name in ("value_model", "reward_model"):
        models[name] = scalar(options.folder / "helpfulness", num_labels=1, dtype=torch.float32)
    settings = PPOConfig(
        output_dir=str(options.folder / "trl"),
        per_device_train_batch_size=ROLLOUTS,
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=ROLLOUTS,
        num_mini_batches=ROLLOUTS // MINI_BATCH,
        num_ppo_epochs=1,
        total_episodes=10_000 * ROLLOUTS,
        response_length=NEW,
        temperature=1.0,
        stop_token=None,
        missing_eos_penalty=None,
        num_sample_generations=0,
        kl_coef=0.01,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    rows = Dataset.from_dict({"input_ids": json.loads((options.folder / "tokens.json").read_text())})
    given = {"train_dataset": rows, "eval_dataset": rows, "callbacks": [InTurn()]}
    PPOTrainer(args=settings, processing_class=tokenizer, **models, **given).train()


if __name__ == "__main__":
    sys.exit(main())
