"""Speed of fine-tuning and of reward models: llamatrain, TRL's trainers and a step's matrix products alone, in alternation.

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers trl datasets accelerate
    python benchmarks/finetuning_speed.py sft --size S --source oasst:en_100_tree.jsonl --peer PEERS/bin/python
    python benchmarks/finetuning_speed.py reward --size S --source hh_rlhf:helpful-base.jsonl.gz --peer PEERS/bin/python

A model of the size with random weights, and a tokenizer trained on the source. TRL gets the same tokens: the dialogues one after
the other, cut into full rows (its `wrapped` packing, the fastest it has), and the very batches of pairs. `products` is a
limit: the products with weights, forwards and backwards, of the tokens that ours computes, each by the faster of MKL and
oneDNN. Every side is a process of its own with one thread that takes `--steps` steps each time it is its turn. Rates are
by processor time, which other work on the machine disturbs less; a ratio is of the two rates of one round. A line goes to
results/finetuning_speed.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretraining_speed import SIZES
from random_models import config_of, write_model, write_tokenizer
from recorded import ROOT
from turns import Answer, alternated, record

LENGTH, BATCH, WARM_UP = 256, 16, 3  # tokens of a row or of a side of a pair, rows or pairs of a step, steps
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Alternate the sides, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["sft", "reward"])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--source", required=True, help="dialogues, or preferences, with the name of their form")
    parser.add_argument("--peer", required=True, help="python with trl")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--worker", choices=["llamatrain", "products"])
    parser.add_argument("--folder", type=Path, help="of the model, for a worker")
    options = parser.parse_args()
    if options.worker:
        work(options)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        trl = [options.peer, str(ROOT / "benchmarks" / "trl_side.py"), str(prepare(options)), "--in-turn"]
        own = [sys.executable, *sys.argv, "--folder", scratch, "--worker"]
        commands = {"llamatrain": [*own, "llamatrain"], "TRL": trl, "products": [*own, "products"]}
        told = functools.partial(rate, options)
        answers = alternated(commands, options.folder, (options.rounds, options.steps, WARM_UP), told)
    rates = {name: [told(one) for one in given] for name, given in answers.items()}
    about = {"task": options.task, "size": options.size, "steps": options.steps}
    unit = "tokens of text" if options.task == "sft" else "pairs"
    heading = f"{options.task}, {options.size} | {unit} per second of processor time"
    record("finetuning_speed", {**about, "source": Path(options.source.partition(":")[2]).name}, heading, rates)
    return 0


def rate(options: argparse.Namespace, answer: Answer) -> float:
    """Return the tokens of text, or pairs, that a side did in a second."""
    done = answer["steps"] * BATCH * (LENGTH if options.task == "sft" else 1)  # of ours some row may hold fewer
    return float(answer.get("done", done) / answer["seconds"])


# --- what both sides get -----------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> Path:
    """Write a model of the size, a tokenizer and TRL's rows; return the file with TRL's plan."""
    from against_trl import plan, settings

    from llamatrain.data.kinds import DialogueRow, PreferenceRow
    from llamatrain.data.rows import read_rows
    from llamatrain.model.scalar_head import ScalarModel
    from llamatrain.model.transformer import Transformer

    start, scalar = options.folder / "start", options.task == "reward"
    kind = PreferenceRow if scalar else DialogueRow
    texts = (turn["content"] for row in read_rows(options.source, kind) for turn in row["messages"])
    write_tokenizer(start, options.size, texts)
    model = (ScalarModel if scalar else Transformer)(config_of(options.size, 2 * LENGTH), seed=0)
    write_model(start, model, scalar)

    steps = WARM_UP + options.rounds * options.steps + 1  # the last of TRL's is never taken
    rows = itertools.islice((pairs_of if scalar else wrapped)(options), steps * BATCH)
    return plan(options.task, options.folder, rows, settings(options.task, 1e-5), steps, BATCH, 0, LENGTH)


def batches(options: argparse.Namespace) -> Any:
    """Return our batches."""
    from llamatrain import hf_folder
    from llamatrain.data.dialogues import DialogueBatches
    from llamatrain.data.kinds import DialogueRow
    from llamatrain.data.rows import read_rows
    from reward.data import PairBatches, load_pairs

    tokenizer = hf_folder.load_tokenizer(options.folder / "start")
    if options.task == "sft":
        dialogues = read_rows(options.source, DialogueRow)
        size = {"batch_size": BATCH, "micro_batch_size": BATCH}
        return DialogueBatches(dialogues, tokenizer, max_length=LENGTH, seed=0, **size)
    pairs, _ = load_pairs(options.source, tokenizer, LENGTH, "skip")
    return PairBatches(pairs, margin="none", max_length=LENGTH, batch_pairs=BATCH, micro_batch_size=BATCH, seed=0)


def pairs_of(options: argparse.Namespace) -> Iterator[dict[str, list[int]]]:
    """Yield the pairs of our batches, without end."""
    ours = batches(options)
    for step in itertools.count():
        for index in ours.sample_ids(step):
            pair = ours.pairs[index]
            yield {"chosen_ids": pair.chosen.tolist(), "rejected_ids": pair.rejected.tolist()}


def wrapped(options: argparse.Namespace) -> Iterator[dict[str, list[int]]]:
    """Yield the tokens of our batches as full rows, without end."""
    ours, ids, labels = batches(options), list[int](), list[int]()
    for step in itertools.count():
        for batch in ours.batch_at(step):
            real = batch["segment_ids"] > 0
            ids += batch["input_ids"][real].tolist()
            labels += batch["input_ids"].masked_fill(~batch["loss_mask"], -100)[real].tolist()
        while len(ids) >= LENGTH:
            yield {"input_ids": ids[:LENGTH], "labels": labels[:LENGTH]}
            del ids[:LENGTH], labels[:LENGTH]


# --- our side, and the limit -------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Take as many steps at a time as a line of standard input says; print what they did and the processor time."""
    import torch

    from llamatrain import distributed, kernels
    from llamatrain.model.config import load_config

    distributed.setup()
    kernels.choose("auto", {})
    config = load_config(options.folder / "start")[0]
    kernels.measure(config)
    ours = batches(options)
    take = trainer(options) if options.worker == "llamatrain" else functools.partial(multiply, torch, config)
    step = 0
    for line in sys.stdin:
        given = [ours.batch_at(step + number) for number in range(int(line))]
        started = time.process_time()
        for micro_batches in given:
            take(micro_batches)
        seconds = time.process_time() - started
        done = sum(
            real_tokens(batch) if options.task == "sft" else int(batch["weight"]) for one in given for batch in one
        )
        print(json.dumps({"seconds": seconds, "done": done}), flush=True)
        step += len(given)


def real_tokens(batch: Any) -> int:
    """Return how many tokens a batch holds, padding left out."""
    return int((batch["segment_ids"] > 0).sum())


def trainer(options: argparse.Namespace) -> Callable[[Any], Any]:
    """Return our own step."""
    from against_trl import CENTRED, settings

    from llamatrain.fit import train_step
    from llamatrain.losses import language_model_loss
    from llamatrain.settings import ZeroConfig
    from llamatrain.start import language_engine, scalar_engine
    from reward.__main__ import pair_loss

    optim, zero = settings(options.task, 1e-5), ZeroConfig(0, "float32", False, False)
    if options.task == "sft":
        engine = language_engine(options.folder / "start", optim, zero, 1000)
        return lambda given: train_step(engine, given, language_model_loss)
    engine = scalar_engine(options.folder / "start", optim, zero, 1000, seed=0)
    return lambda given: train_step(engine, given, lambda model, batch: pair_loss(model, batch, 0.0, CENTRED))


def multiply(torch: Any, config: Any, micro_batches: list[Any]) -> None:
    """Take a step's products with weights, which are made once a shape: no attention, no other operation."""
    for batch in micro_batches:
        tokens = real_tokens(batch)
        dim, hidden = config.dim, config.hidden_dim
        joined = dim + 2 * config.n_kv_heads * config.head_dim
        layer = ((joined, dim), (dim, dim), (2 * hidden, dim), (dim, hidden))
        for shape in layer:
            for _ in range(config.n_layers):
                one_weight(torch, *shape, tokens)
        if "ends" not in batch:  # the head, at the tokens that are learned from
            one_weight(torch, config.vocab_size, dim, int(batch["loss_mask"].sum()))


def one_weight(torch: Any, n_out: int, n_in: int, tokens: int) -> None:
    """Multiply forwards, and backwards to what came in and to the weight."""
    from llamatrain import kernels

    x, y, weight, turned, out, back, gradient = buffers(torch, n_out, n_in)
    x, y, out, back = x[:tokens], y[:tokens], out[:tokens], back[:tokens]
    if kernels.onednn(n_out, n_in, tokens):
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    else:
        torch.mm(x, weight.t(), out=out)
    if kernels.onednn(n_in, n_out, tokens):
        torch.ops.mkldnn._linear_pointwise(y, turned, None, "none", [], "")
    else:
        torch.mm(y, weight, out=back)
    torch.mm(y.t(), x, out=gradient)


@functools.cache
def buffers(torch: Any, n_out: int, n_in: int) -> tuple[Any, ...]:
    """Return numbers to multiply and places for what comes out, for as many tokens as a step may have."""
    most = 2 * BATCH * LENGTH
    x, y, weight = torch.randn(most, n_in), torch.randn(most, n_out), torch.randn(n_out, n_in)
    return (
        x,
        y,
        weight,
        weight.t().contiguous(),
        torch.empty(most, n_out),
        torch.empty(most, n_in),
        torch.empty(n_out, n_in),
    )


if __name__ == "__main__":
    sys.exit(main())
