"""The checks of one launch: run by every rank, on one rank or on two; prints `ok <check>` from rank 0.

A plain PyTorch loop on the whole global batch is the reference for every ZeRO stage.
"""

from __future__ import annotations

import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from llamatrain import checkpoint, distributed, hf_folder, manifest, saving
from llamatrain.data.batches import Batches
from llamatrain.data.order import Places
from llamatrain.engine import state as named
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.engine.zero import DTYPES
from llamatrain.errors import UserError
from llamatrain.fit import evaluate_loss, fit, train_step
from llamatrain.generation import generate
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Init, Transformer
from llamatrain.optim import kind_of, parameter_groups
from llamatrain.responses.models import frozen_model
from llamatrain.responses.pairs import Pair
from llamatrain.run import Run
from llamatrain.settings import OptimConfig, RunConfig, Sampling, SpikeConfig, WandbConfig, ZeroConfig
from llamatrain.spikes import Guard
from llamatrain.tokenizer import Tokenizer
from reward.__main__ import pair_loss
from reward.data import PairBatches
from tests.checkpoints import save_checkpoint
from tests.memory import Held

MODEL = ModelConfig(
    vocab_size=400,
    dim=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    hidden_dim=48,
    max_seq_len=64,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    init_std=0.02,
    activation_checkpointing="none",
)
TIED = replace(MODEL, tie_embeddings=True)
OPTIM = OptimConfig(
    lr=1e-2,
    betas=[0.9, 0.95],
    eps=1e-5,
    weight_decay=0.1,
    grad_clip=0.5,
    schedule="cosine",
    warmup_steps=2,
    warmup_fraction=0.0,
    final_lr_fraction=0.1,
)
ROWS, LENGTH, STEPS = 8, 24, 6


def zero(stage: int, dtype: str = "float32", offload: bool = False) -> ZeroConfig:
    return ZeroConfig(stage=stage, dtype=dtype, offload_optimizer=offload, offload_parameters=offload and stage == 3)


def global_batch(step: int) -> list[Batch]:
    """Return the step's rows: two segments each, with answers of very different lengths."""
    generator = torch.Generator().manual_seed(step)
    rows = []
    for _ in range(ROWS):
        ids = torch.randint(3, 400, (1, LENGTH), generator=generator)
        cut = int(torch.randint(4, LENGTH - 4, (), generator=generator))
        positions = torch.cat([torch.arange(cut), torch.arange(LENGTH - cut)])[None]
        segments = torch.cat([torch.full((cut,), 1), torch.full((LENGTH - cut,), 2)])[None]
        mask = torch.zeros(1, LENGTH, dtype=torch.bool)
        answer = int(torch.randint(1, LENGTH - cut, (), generator=generator))
        mask[0, LENGTH - answer :] = True
        mask[0, cut - 1] = True
        rows.append({"input_ids": ids, "position_ids": positions, "segment_ids": segments, "loss_mask": mask})
    return rows


def stack(rows: list[Batch]) -> Batch:
    batch = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    batch["weight"] = batch["loss_mask"].sum().float()
    return batch


def micro_batches(step: int, size: int) -> list[Batch]:
    """Return this rank's micro-batches of `size` rows."""
    share = ROWS // distributed.world_size()
    own = global_batch(step)[distributed.rank() * share : (distributed.rank() + 1) * share]
    return [stack(own[i : i + size]) for i in range(0, share, size)]


def reference(steps: int = STEPS) -> tuple[list[float], list[float], dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train with plain PyTorch on whole global batches; return losses, gradient norms, weights and norms by kind."""
    model = Transformer(MODEL, seed=0)
    optimizer = torch.optim.AdamW(parameter_groups(model, OPTIM), lr=1.0, betas=(0.9, 0.95), eps=OPTIM.eps)
    losses, norms, kinds = [], [], []
    for step in range(steps):
        batch = stack(global_batch(step))
        logits = model(batch["input_ids"], batch["position_ids"], batch["segment_ids"])
        chosen = batch["loss_mask"][:, 1:]
        loss = F.cross_entropy(logits[:, :-1][chosen], batch["input_ids"][:, 1:][chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        squares: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            squares[kind_of(name)] = squares.get(kind_of(name), 0.0) + float(parameter.grad.square().sum())
        kinds.append({kind: square**0.5 for kind, square in squares.items()})
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.grad_clip)))
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.lr_at(step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, norms, {k: v.detach().clone() for k, v in model.named_parameters()}, kinds


def close(a: list[float], b: list[float], tolerance: float) -> None:
    worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
    assert worst <= tolerance, f"differ by {worst}: {a} {b}"


def check_stages() -> None:
    """Every stage, and every split into micro-batches, gives the reference's losses, norms and weights."""
    for stage in range(3):
        train_step(
            Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS), micro_batches(0, 2), language_model_loss
        )
    assert "torch._dynamo" not in sys.modules  # stages 0 to 2 start without the compiler, a second of imports
    losses, norms, weights, kinds = reference()
    share = ROWS // distributed.world_size()
    for stage in range(4):
        for size in (1, share) if stage in (0, 3) else (2,):
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS)
            rows = [train_step(engine, micro_batches(step, size), language_model_loss, True) for step in range(STEPS)]
            close([row["train/loss"] for row in rows], losses, 1e-5)
            for kind in kinds[0]:
                close([row[f"train/grad_norm/{kind}"] for row in rows], [step[kind] for step in kinds], 1e-5)
            close([row["train/grad_norm"] for row in rows], norms, 1e-5)
            for name, weight in engine.state.parameters_by_name():
                assert torch.allclose(weight, weights[name], atol=1e-5), (stage, name)
    say("stages")


def check_bfloat16() -> None:
    """Low precision follows the reference within its rounding, however many micro-batches make a step."""
    losses, _, _, kinds = reference()
    for stage, offload in product((1, 2, 3), (False, True)):
        engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage, "bfloat16", offload), STEPS)
        rows = [train_step(engine, micro_batches(step, 4), language_model_loss, True) for step in range(STEPS)]
        close([row["train/loss"] for row in rows], losses, 3e-2)
        for kind in kinds[0]:
            ratios = [row[f"train/grad_norm/{kind}"] / step[kind] for row, step in zip(rows, kinds, strict=True)]
            close(ratios, [1.0] * STEPS, 3e-2)
        if offload:
            continue
        moments = []
        for size in (1, 4):
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage, "bfloat16"), STEPS)
            train_step(engine, [b for step in range(12) for b in micro_batches(step, size)], language_model_loss)
            state = held_state(engine)
            moments.append(torch.cat([m.flatten() for name, m in state.items() if name.startswith("exp_avg.")]))
        assert (moments[0] - moments[1]).norm() < 5e-3 * moments[1].norm(), stage
    if distributed.world_size() > 1:
        for stage, asked in product((1, 2, 3), (None, "float32")):
            settings = replace(zero(stage, "bfloat16"), reduce_dtype=asked)
            assert reduced_in(settings) == {torch.float32 if asked else torch.bfloat16}, (stage, asked)
    say("bfloat16")


def reduced_in(settings: ZeroConfig) -> set[torch.dtype]:
    """Return the precisions in which a step sums gradients over the ranks: of all tensors but norms and counts."""
    found: set[torch.dtype] = set()

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.update(x.dtype for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.numel() > 1000)
            return real(*args, **kwargs)

        return call

    engine = Engine(Transformer(MODEL, seed=0), OPTIM, settings, STEPS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "reduce_scatter_fn"):
            patch.setattr(f"deepspeed.comm.{name}", watched(pkgutil.resolve_name(f"deepspeed.comm:{name}")))
        train_step(engine, micro_batches(0, 2), language_model_loss)
    return found


def check_resume(folder: Path, tokenizer: Tokenizer) -> None:
    """A checkpoint of one stage goes on at the same stage bit by bit, and at any other within rounding."""
    engines: dict[int, Engine] = {}
    ends: dict[int, dict[str, torch.Tensor]] = {}
    for stage in range(4):
        engine = engines[stage] = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS)
        for step in range(STEPS):
            if step == 3:
                saving.save(folder / f"step_{stage}", {"model": engine}, tokenizer, {"step": 3}, {"note": stage})
            train_step(engine, micro_batches(step, 2), language_model_loss)
        ends[stage] = {name: weight.clone() for name, weight in engine.state.parameters_by_name()}
    for source, target in [(0, 0), (1, 1), (2, 2), (3, 3), (0, 3), (3, 1), (2, 0)]:
        engine = Engine(Transformer(MODEL, seed=7), OPTIM, zero(target), STEPS)
        state = checkpoint.restore(folder / f"step_{source}", {"model": engine})
        assert state["note"] == source
        engine.state.set_step(3)
        for step in range(3, STEPS):
            train_step(engine, micro_batches(step, 2), language_model_loss)
        for name, weight in engine.state.parameters_by_name():
            if source == target:
                assert torch.equal(weight, ends[source][name]), (source, target, name)
            else:
                assert torch.allclose(weight, ends[source][name], atol=1e-5), (source, target, name)
    check_masters(folder / "step_low", tokenizer)
    say("resume")


def check_masters(folder: Path, tokenizer: Tokenizer) -> None:
    """Master weights and moments of bfloat16 training arrive at every stage bit by bit, and in float32 training."""
    low = Engine(Transformer(TIED, seed=0), OPTIM, zero(2, "bfloat16"), STEPS)
    train_step(low, micro_batches(0, 2), language_model_loss)
    saving.save(folder, {"model": low}, tokenizer, {"step": 1}, {})
    saved = held_state(low)
    for stage in (1, 2, 3):
        other = Engine(Transformer(TIED, seed=7), OPTIM, zero(stage, "bfloat16"), STEPS)
        checkpoint.restore(folder, {"model": other})
        other.state.set_step(1)
        found = held_state(other)
        assert found.keys() == saved.keys()
        assert all(torch.equal(found[name], saved[name]) for name in saved), stage
    high = Engine(Transformer(TIED, seed=7), OPTIM, zero(0), STEPS)
    checkpoint.restore(folder, {"model": high})
    for name, weight in high.state.parameters_by_name():
        assert torch.equal(weight, saved[f"master.{name}"]), name  # not rounded to bfloat16


def held_state(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.state.optimizer_state_by_name()}


def check_offload(folder: Path, tokenizer: Tokenizer) -> None:
    """What lies in host memory changes no number, and a run goes on with it and without it."""
    losses, norms, _, kinds = reference()
    away = {stage: zero(stage, offload=True) for stage in (1, 2, 3)}
    for stage in (1, 2, 3):
        for name, before, after in (
            ("on", away[stage], zero(stage % 3 + 1)),
            ("off", zero(stage), away[stage % 3 + 1]),
        ):
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, before, STEPS)
            rows = [train_step(engine, micro_batches(step, 2), language_model_loss, True) for step in range(3)]
            saving.save(folder / f"{name}_{stage}", {"model": engine}, tokenizer, {"step": 3}, {})
            engine = Engine(Transformer(MODEL, seed=7), OPTIM, after, STEPS)
            checkpoint.restore(folder / f"{name}_{stage}", {"model": engine})
            engine.state.set_step(3)
            rows += [train_step(engine, micro_batches(step, 2), language_model_loss, True) for step in range(3, STEPS)]
            close([row["train/loss"] for row in rows], losses, 1e-5)
            close([row["train/grad_norm"] for row in rows], norms, 1e-5)
            for kind in kinds[0]:
                close([row[f"train/grad_norm/{kind}"] for row in rows], [step[kind] for step in kinds], 1e-5)
    say("offload")


def check_streaming(folder: Path, tokenizer: Tokenizer) -> None:
    """Saving and restoring hold one full tensor at a time: what is put together, and what is read from a file."""
    largest = 4 * max(shape.numel() for shape in named.shapes(Transformer(MODEL, None)).values())
    gathered, read = Held(), Held()
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, gathered, read)
        for stage in (2, 3):
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS)
            train_step(engine, micro_batches(0, 2), language_model_loss)
            saving.save(folder / f"streamed_{stage}", {"model": engine}, tokenizer, {"step": 1}, {})
            checkpoint.restore(folder / f"streamed_{stage}", {"model": engine})
            assert gathered.now == 0, vars(gathered)
            assert max(distributed.gather_objects(gathered.peak)) == largest, (stage, largest)
            assert (read.now, read.peak) == (0, largest), (stage, vars(read), largest)
    say("streaming")


def watch(patch: pytest.MonkeyPatch, gathered: Held, read: Held) -> None:
    """Count what a rank puts together, and what is read from safetensors files."""
    real_exchange, real_open = distributed.exchange, checkpoint.safe_open

    class Watched:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = real_open(*args, **kwargs).__enter__()

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> Any:
            return self.file.keys()

        def get_tensor(self, name: str) -> torch.Tensor:
            return read.copy(self.file.get_tensor(name))

    def exchange(*args: Any) -> torch.Tensor:
        got = real_exchange(*args)
        return gathered.copy(got) if len(got) else got  # where the rank's files are complete it only gives

    patch.setattr(distributed, "exchange", exchange)
    for module in (checkpoint, hf_folder, named):
        patch.setattr(module, "safe_open", Watched)


def check_writing(folder: Path, tokenizer: Tokenizer) -> None:
    """What a thread writes while training goes on is, byte by byte, what is written while it waits: the whole state."""
    group = distributed.new_group()
    low = ((1, False), (2, True), (3, False), (3, True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "SHARD_BYTES", 10_000)  # several files of weights
        for settings in (*map(zero, range(4)), *(zero(stage, "bfloat16", offload) for stage, offload in low)):
            name = f"{settings.stage}_{settings.dtype}_{settings.offload_optimizer}"
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, settings, STEPS)
            train_step(engine, micro_batches(0, 2), language_model_loss)
            weights = {name: weight.clone() for name, weight in engine.state.parameters_by_name()}
            state = held_state(engine)
            critic = Engine(ScalarModel(MODEL, seed=1), OPTIM, settings, STEPS)
            told = ({"model": engine, "critic": critic}, tokenizer, {"step": 1}, {})
            saving.save(folder / f"waits_{name}", *told)
            behind = saving.Saving(folder / f"behind_{name}", *told)
            behind.prepare()
            behind.snapshot()
            thread = threading.Thread(target=behind.write, args=(group,))
            thread.start()
            train_step(engine, micro_batches(1, 2), language_model_loss)
            thread.join()
            folders = (folder / f"waits_{name}", folder / f"behind_{name}")
            waited, written = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
            assert waited.keys() == written.keys()
            assert [path for path in waited if waited[path] != written[path]] == [], settings
            found = dict(hf_folder.load_weights(folder / f"behind_{name}"))
            assert found.keys() == weights.keys() and all(torch.equal(found[key], weights[key]) for key in found)
            scores = dict(hf_folder.load_weights(folder / f"behind_{name}" / "trainer" / "critic"))
            assert all(torch.equal(scores[key], weight) for key, weight in critic.state.parameters_by_name())
            found = {}
            for path in (folder / f"behind_{name}").glob("trainer/model/*.safetensors"):
                found |= load_file(path)
            assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in found)
    say("writing")


def check_frozen(folder: Path, tokenizer: Tokenizer) -> None:
    """A model that is only read gives the plain model's numbers, and where it is divided it never lies whole on a rank."""
    batch = micro_batches(0, 2)[0]
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "segment_ids")}
    for scalar in (False, True):
        plain = ScalarModel(MODEL, seed=4) if scalar else Transformer(MODEL, seed=4)
        path = folder / f"frozen_{scalar}"
        if distributed.is_main():
            save_checkpoint(path, plain, tokenizer)
        distributed.barrier()
        for stage, offload in ((0, False), (3, False), (3, True)):
            model = frozen_model(path, replace(zero(stage), offload_parameters=offload), scalar=scalar)
            parameters = dict(model.named_parameters())
            assert not any(parameter.requires_grad for parameter in parameters.values())
            if stage == 3 and distributed.world_size() > 1:
                assert sum(parameter.numel() for parameter in parameters.values()) == 0
                held = sum(parameter.ds_tensor.numel() for parameter in parameters.values())
                assert held <= 0.51 * sum(parameter.numel() for parameter in plain.parameters())
            with torch.no_grad():
                assert torch.allclose(model(**inputs), plain(**inputs), atol=1e-6)
    with pytest.raises(UserError, match="is a reward model; need a language model"):
        frozen_model(path, zero(3), scalar=False)
    say("frozen")


def check_building() -> None:
    """Fresh weights are those of a model made alone, bit by bit; each rank draws its share, a sharded one holds no more."""
    drawn: list[str] = []

    def draw(init: Init, shape: torch.Size, real: Callable[[Init, torch.Size], torch.Tensor] = Init.draw) -> Any:
        drawn.append(init.name)
        return real(init, shape)

    alone = {name: weight.detach() for name, weight in ScalarModel(MODEL, seed=3).named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Init, "draw", draw)
        for settings in (zero(0), zero(2, "bfloat16"), zero(3), zero(3, "bfloat16", offload=True)):
            drawn.clear()
            model = build(lambda: ScalarModel(MODEL, seed=3), settings)
            names = distributed.gather_objects(list(drawn))
            assert sorted(name for share in names for name in share) == sorted(n for n in alone if "norm" not in n)
            assert max(map(len, names)) - min(map(len, names)) <= 1
            assert {weight.dtype for weight in model.parameters()} == {DTYPES[settings.dtype]}
            sharded = settings.stage == 3 and distributed.world_size() > 1
            assert sum(weight.numel() for weight in model.parameters()) == 0 or not sharded
            engine = Engine(model, OPTIM, settings, STEPS)
            for name, weight in engine.state.parameters_by_name():
                assert torch.equal(weight, alone[name].to(weight.dtype)), (settings, name)
    say("building")


class Few(Batches):
    """So many rows a step: two ranks cannot share them equally, or the second has none."""

    def __init__(self, rows: int, size: int, rank: int, ranks: int) -> None:
        super().__init__(rows, size, 0, rank, ranks, ())

    def _rows_at(self, places: Places) -> Batch:
        rows = [global_batch(place // ROWS)[place % ROWS] for place in places.tolist()]
        padding = {key: torch.zeros_like(column) for key, column in global_batch(0)[0].items()}
        return stack(rows + [padding] * (self.micro_batch_size - len(rows)))


def check_uneven() -> None:
    """What a batch teaches does not depend on whether the ranks can share it: rows of text, and pairs."""
    chance = np.random.default_rng(0)
    sides = [chance.integers(3, 400, size, dtype=np.int32) for size in chance.integers(4, 30, 20)]
    ratings = ("significantly_better", "slightly_better", None)
    pairs = [Pair(a, b, ratings[i % 3], i % 2 == 0, None, False, "x", i) for i, (a, b) in enumerate(pairwise(sides))]

    def few(count: int, rank: int, ranks: int) -> Few:
        return Few(count, 2, rank, ranks)

    def paired(count: int, rank: int, ranks: int) -> PairBatches:
        settings: dict[str, Any] = {"margin": "large", "max_length": 64, "micro_batch_size": 2, "seed": 0}
        return PairBatches(pairs, batch_pairs=count, rank=rank, world_size=ranks, **settings)

    def ranking(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return pair_loss(model, batch, 0.5, 0.01)

    kinds: list[tuple[Any, Any, Any]] = [(Transformer, few, language_model_loss), (ScalarModel, paired, ranking)]
    for (make, batches, loss_fn), count in product(kinds, (1, 5)):
        own = batches(count, distributed.rank(), distributed.world_size())
        plain, alone = make(MODEL, seed=0), batches(count, 0, 1)
        losses, norms = [], []
        for step in range(2):
            steps = [(loss_fn(plain, batch)[0], float(batch["weight"])) for batch in alone.batch_at(step)]
            loss = sum(loss for loss, _ in steps) / sum(weight for _, weight in steps)
            plain.zero_grad()
            loss.backward()
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])))
            losses.append(float(loss.detach()))
        assert len({len(own.batch_at(0)), *distributed.gather_objects(len(own.batch_at(0)))}) == 1
        for stage in range(4):
            still = replace(OPTIM, lr=1e-12)  # the second step's loss is that of the same weights
            engine = Engine(make(MODEL, seed=0), still, zero(stage), STEPS)
            rows = [train_step(engine, own.batch_at(step), loss_fn) for step in range(2)]
            close([row["train/loss"] for row in rows], losses, 1e-5)
            close([row["train/grad_norm"] for row in rows], norms, 1e-5)
    say("uneven")


class Numbered(Batches):
    """Rows that follow from their number alone; the loss of two is not a number."""

    broken = (13, 19)  # of steps 1 and 2; of two ranks the second has one, the first the other

    def __init__(self, skip: list[int]) -> None:
        super().__init__(ROWS, 2, 0, distributed.rank(), distributed.world_size(), skip)

    def _rows_at(self, places: Places) -> Batch:
        batch = stack([global_batch(place // ROWS)[place % ROWS] for place in places.tolist()])
        return {**batch, "broken": torch.tensor(bool(np.isin(self.broken, places).any()))}

    def describe(self, samples: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
        return [{"sample": sample, "source": "numbers", "text": ""} for sample in samples]


def check_spikes(folder: Path, tokenizer: Tokenizer) -> None:
    """At every stage gradients that are not finite on one rank leave no trace: one way back for both steps."""

    def loss(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, extra = language_model_loss(model, batch)
        return total * (float("nan") if batch["broken"] else 1.0), extra

    def train(name: str, zero: ZeroConfig, skip: list[int]) -> dict[str, torch.Tensor]:
        wandb = WandbConfig("disabled", "test", None, None, [])
        config = RunConfig(name, str(folder), 0, "never", 0, 0, 0, 1, False, False, "mkl", 0, False, wandb)
        spikes = SpikeConfig(
            True, window=8, min_steps=8, loss_sigmas=6.0, norm_sigmas=20.0, look_ahead=2, max_incidents=1
        )
        batches = Numbered(skip)
        with Run(config, "test", {}, data={}) as run:
            engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero, STEPS)
            fit(engine, batches, loss, run, STEPS, tokenizer, guard=Guard(spikes, batches, tokenizer))
        assert len(run.incidents) == (not skip)
        assert batches.skip == list(range(ROWS, 3 * ROWS))
        return {name: weight.clone() for name, weight in engine.state.parameters_by_name()}

    low = [(1, False), (2, False), (1, True), (2, True), (3, True)]
    for settings in (*map(zero, range(4)), *(zero(stage, "bfloat16", offload) for stage, offload in low)):
        name = f"spikes{settings.stage}{settings.dtype}{'away' * settings.offload_optimizer}"
        found, known = train(name, settings, []), train(f"{name}-known", settings, list(range(ROWS, 3 * ROWS)))
        for weight in found:
            assert torch.equal(found[weight], known[weight]), (name, weight)
    say("spikes")


class Damaged(Numbered):
    """One row cannot be read; with two ranks it is on the second alone."""

    def _rows_at(self, places: Places) -> Batch:
        if 13 in places:
            raise UserError("row 13 is missing")
        return super()._rows_at(places)


def check_reading(folder: Path, tokenizer: Tokenizer) -> None:
    """What one rank cannot read ends all of them alike, at once: in training and where held-out text is measured."""
    wandb = WandbConfig("disabled", "test", None, None, [])
    config = RunConfig("reading", str(folder), 0, "never", 0, 0, 0, 1, False, False, "mkl", 0, False, wandb)
    with Run(config, "test", {}, data={}) as run:
        engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(2), STEPS)
        with pytest.raises(UserError, match="row 13 is missing"):
            fit(engine, Damaged([]), language_model_loss, run, STEPS, tokenizer)
    parent, hashed = folder / "read_parent", list[str]()
    if distributed.is_main():
        save_checkpoint(parent, Transformer(MODEL, seed=0), tokenizer)
    distributed.barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "sha256", lambda path, sha256=manifest.sha256: hashed.append(path.name) or sha256(path))
        assert checkpoint.resolve(parent) == parent.resolve()
    shares = distributed.gather_objects(hashed)
    assert sorted(name for share in shares for name in share) == sorted(manifest.read(parent))  # once, by one rank
    assert all(shares)
    if distributed.is_main():
        (parent / "model.safetensors").write_bytes(b"")
    distributed.barrier()
    with pytest.raises(UserError, match=r"model.safetensors has 0 bytes"):
        checkpoint.resolve(parent)

    def held_out() -> Iterator[Batch]:
        yield from micro_batches(0, 2)
        if distributed.rank() == distributed.world_size() - 1:
            raise UserError("held-out row 8 is missing")
        yield from micro_batches(1, 2)

    for stage in (0, 3):
        engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS)
        with pytest.raises(UserError, match="held-out row 8 is missing"):
            evaluate_loss(engine, held_out(), language_model_loss)
    say("reading")


def check_generation() -> None:
    """Every stage generates what the plain model does, though ranks stop after different numbers of tokens, or have no prompts."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4 + 8 * distributed.rank(), seed=3)
    prompts, keys = [[1, 20, 30], [1, 40]], [("a", 0), ("b", 0)]
    plain = generate(Transformer(MODEL, seed=0), prompts, keys, sampling, 2, 2)
    for stage in (0, 3):
        engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero(stage), STEPS)
        with engine.generating() as model:
            count = len(prompts) if distributed.is_main() else 0
            first = generate(model, prompts[:count], keys[:count], sampling, 2, 2)
            assert distributed.gather_objects(len(first)) == [2, 0][: distributed.world_size()]
        with engine.generating() as model:
            found = generate(model, prompts, keys, sampling, 2, 2)
        assert [g.tokens for g in found] == [g.tokens for g in plain]
        try:
            with engine.generating():
                raise KeyError("inside")
        except KeyError:
            pass
        train_step(engine, micro_batches(0, 2), language_model_loss)  # the hooks are back
    say("generation")


def say(check: str) -> None:
    distributed.barrier()
    if distributed.is_main():
        print(f"ok {check}", flush=True)


def main() -> None:
    """Run all checks; arguments: a folder and a tokenizer."""
    torch.set_num_threads(1)
    distributed.setup()
    folder, tokenizer = Path(sys.argv[1]), Tokenizer(Path(sys.argv[2]))
    check_stages()
    check_bfloat16()
    check_resume(folder, tokenizer)
    check_offload(folder, tokenizer)
    check_streaming(folder, tokenizer)
    check_writing(folder, tokenizer)
    check_frozen(folder, tokenizer)
    check_building()
    check_uneven()
    check_spikes(folder, tokenizer)
    check_reading(folder, tokenizer)
    check_generation()
    assert replace(OPTIM, lr=1.0).lr_at(0, STEPS) == 0.5
    distributed.leave()


if __name__ == "__main__":
    main()
