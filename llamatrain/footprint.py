"""What training and sampling take of a rank's memory, in bytes: one arithmetic for micro-batches, plans and their checks.

The states (weights, gradients, masters, moments) are exact: DeepSpeed's padding is in them. Activations are those that the
backward pass keeps, summed operator by operator over llamatrain/model; tests hold them against a run on a CPU. What a GPU
keeps is read off the same code and unmeasured. Imports no torch.

Symbols: C model dimension, K width of keys and values, F width of the feed-forward, V vocabulary, T tokens of a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from .model.config import ModelConfig
from .settings import ZeroConfig

WIDTH = {"float32": 4, "bfloat16": 2}  # bytes of a number
SINGLE = 4  # bytes of a float32, whatever the training precision
INDEX = 8  # bytes of a token or a position
BUCKET = 500_000_000  # numbers that DeepSpeed reduces together, by default
LIVE = 1_050_000_000  # weights that stage 3 holds gathered at most, prefetched ones included, by default
PERSISTENT = {"cpu": 0, "cuda": 10_000}  # numbers of a weight up to which stage 3 leaves it whole (engine/zero.py)
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 25}  # logits of the loss held at a time (losses.py)
LONGEST, BLOCK, MASKED_BLOCK = (
    512,
    64,
    512,
)  # of attention.py and blocks.py: rows whose probabilities are kept, queries of a block


@dataclass(frozen=True)
class ModelCounts:
    """How many models of one shape a rank holds together: those that learn, and beside them those that are only read.

    `scalars` of those that learn and `scorers` of those that are read have a scalar head in the place of the language model's.
    """

    learning: int = 1
    scalars: int = 0
    reading: int = 0
    scorers: int = 0

    @property
    def heads(self) -> Iterator[tuple[bool, int, int]]:
        """Yield for each kind of head (is it scalar, how many learn, how many are read)."""
        yield False, self.learning - self.scalars, self.reading - self.scorers
        yield True, self.scalars, self.scorers


ALONE = ModelCounts()


@dataclass(frozen=True)
class States:
    """What a rank keeps of models from step to step, in bytes."""

    weights: float = 0.0
    gradients: float = 0.0
    masters: float = 0.0  # float32 copies of this rank's share
    moments: float = 0.0
    host: float = 0.0  # of these in host memory, by offload

    @property
    def device(self) -> float:
        """What is in the device's memory."""
        return self.weights + self.gradients + self.masters + self.moments - self.host

    def __add__(self, other: States) -> States:
        """Add those of another model."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return States(*(one + two for one, two in zip(mine, theirs, strict=True)))


def sizes(model: ModelConfig, scalar: bool = False) -> Iterator[tuple[int, int, bool]]:
    """Yield (numbers of a weight, how many such weights, is it a matrix) of a language or a scalar model."""
    assert model.vocab_size is not None
    narrow = model.n_kv_heads * model.head_dim
    heads = 0 if model.tie_embeddings or scalar else 1
    yield model.vocab_size * model.dim, 1 + heads, True
    yield model.dim * model.dim, 2 * model.n_layers, True  # queries and output
    yield model.dim * narrow, 2 * model.n_layers, True  # keys and values
    yield model.dim * model.hidden_dim, 3 * model.n_layers, True
    if scalar:
        yield model.dim, 1, True
    yield model.dim, 2 * model.n_layers + 1, False  # norms


def parameters(model: ModelConfig, scalar: bool = False) -> int:
    """Return how many parameters a language or a scalar model has."""
    return sum(size * count for size, count, _ in sizes(model, scalar))


def trained(model: ModelConfig, zero: ZeroConfig, ranks: int, scalar: bool = False, device: str = "cuda") -> States:
    """Return what a rank holds of a model in training, between the backward pass and the update.

    Stage 1 shards moments and masters, 2 gradients as well, 3 weights, too. In bfloat16 stage 1 accumulates whole gradients
    in float32 and keeps those of the last micro-batch beside them.
    """
    width, stage = WIDTH[zero.dtype], zero.stage
    if stage == 3:
        return _sharded(model, zero, ranks, scalar, device)
    whole = parameters(model, scalar)
    if stage == 0:
        return States(whole * width, whole * SINGLE, 0.0, whole * 2 * SINGLE)
    # DeepSpeed flattens matrices and norms apart, each padded to twice the ranks.
    groups = [
        sum(size * count for size, count, matrix in sizes(model, scalar) if matrix is kind) for kind in (True, False)
    ]
    padded = sum(-(-group // (2 * ranks)) * 2 * ranks for group in groups)
    share = padded // ranks
    kept = whole * SINGLE if stage == 1 else share * SINGLE
    if stage == 2 and zero.dtype == "float32" and not zero.offload_optimizer:
        kept = touched(model, ranks, scalar) * SINGLE
    if stage == 1 and zero.dtype == "bfloat16" and not zero.offload_optimizer:
        kept = padded * SINGLE + whole * width
    weights, moments, masters = padded * width, share * 2 * SINGLE, share * SINGLE
    host = 0
    if zero.offload_optimizer:
        # The host has a copy of its share of the sum, which is made on the device, and its share of the updated weights.
        kept += share * SINGLE
        weights += share * width
        host = moments + masters + share * SINGLE + share * width
    return States(weights, kept, masters, moments, host)


def touched(model: ModelConfig, ranks: int, scalar: bool = False) -> int:
    """Return the numbers of the weights of which a part is in a rank's share at stages 1 and 2: of the rank with the most.

    So many gradients stage 2 keeps in float32, whole ones where a share begins or ends in the middle of a weight.
    """
    assert model.vocab_size is not None
    embedding, square, narrow = (
        model.vocab_size * model.dim,
        model.dim**2,
        model.dim * model.n_kv_heads * model.head_dim,
    )
    layer = [square, narrow, narrow, square, *[model.dim * model.hidden_dim] * 3]
    head = [model.dim] if scalar else [] if model.tie_embeddings else [embedding]
    held = [0] * ranks
    for group in (
        [embedding, *layer * model.n_layers, *head],
        [model.dim] * (2 * model.n_layers + 1),
    ):  # in their order
        share = -(-sum(group) // (2 * ranks)) * 2
        end = 0
        for size in group:
            begin, end = end, end + size
            for rank in range(begin // share, -(-end // share)):
                held[rank] += size
    return max(held)


def _sharded(model: ModelConfig, zero: ZeroConfig, ranks: int, scalar: bool, device: str) -> States:
    share = sum(-(-size // ranks) * count for size, count, _ in sizes(model, scalar))  # each weight is padded by itself
    weights = share * WIDTH[zero.dtype] + persistent(model, zero.dtype, ranks, scalar, device)
    masters, gradients, moments, host = share * SINGLE, share * SINGLE, share * 2 * SINGLE, 0
    if zero.offload_optimizer:
        gradients += share * SINGLE  # what is accumulated, and what AdamW reads
        host = gradients + masters + moments
    if zero.offload_parameters:
        host += share * WIDTH[zero.dtype]
    return States(weights, gradients, masters, moments, host)


def persistent(model: ModelConfig, dtype: str, ranks: int, scalar: bool, device: str) -> float:
    """Return the bytes of small weights that stage 3 keeps whole on every rank of several, beside their shards."""
    small = sum(size * count for size, count, _ in sizes(model, scalar) if size <= PERSISTENT[device])
    return small * WIDTH[dtype] if ranks > 1 else 0


def read(model: ModelConfig, dtype: str, ranks: int = 1, scalar: bool = False, device: str = "cuda") -> States:
    """Return what a rank holds of a model that is only read, whole or (of several ranks) sharded by stage 3."""
    if ranks == 1:
        return States(parameters(model, scalar) * WIDTH[dtype])
    share = sum(-(-size // ranks) * count for size, count, _ in sizes(model, scalar))
    return States(share * WIDTH[dtype] + persistent(model, dtype, ranks, scalar, device))


def checkpoint(number: int, dtype: str) -> int:
    """Return the bytes of a checkpoint with what resume needs: weights, moments and, in bfloat16, masters."""
    return number * (WIDTH[dtype] + 2 * SINGLE + (SINGLE if dtype == "bfloat16" else 0))


# --- activations -------------------------------------------------------------------------------------------------


def in_blocks(device: str, dtype: str, tokens: int) -> bool:
    """Tell whether attention keeps its probabilities: training on a CPU in float32 on short rows."""
    return device == "cpu" and dtype == "float32" and 1 < tokens <= LONGEST


def in_runs(device: str, dtype: str) -> bool:
    """Tell whether packed rows need neither masks nor copies of keys (varlen.py)."""
    return device == "cuda" and dtype == "bfloat16"


def joined(zero: ZeroConfig, ranks: int) -> bool:
    """Tell whether weights that are multiplied together lie side by side (linear.py): not where each is gathered by itself."""
    return zero.stage < 3 or (ranks == 1 and not zero.offload_parameters)


def attention(model: ModelConfig, zero: ZeroConfig, ranks: int, tokens: int, segments: bool, device: str) -> float:
    """Return the bytes per token that attention of a layer keeps, from the projections' output to its own."""
    width, dim, narrow = WIDTH[zero.dtype], model.dim, model.n_kv_heads * model.head_dim
    if in_blocks(device, zero.dtype, tokens):
        return width * (2 * dim + 2 * narrow + model.n_heads * _mean_end(tokens, BLOCK))
    segments = segments and not in_runs(device, zero.dtype)
    # Values are a view of the projections' joint output, if there is one.
    values = dim + 2 * narrow if joined(zero, ranks) else narrow
    keys = narrow
    if model.n_kv_heads < model.n_heads and segments:  # each query head gets its own
        values, keys = dim, dim
    cut = dim if segments else 0  # a block of queries at a time, then joined
    return width * (2 * dim + keys + values + cut) + SINGLE * model.n_heads  # the sum of exponentials


def layer(model: ModelConfig, zero: ZeroConfig, ranks: int, tokens: int, segments: bool, device: str) -> float:
    """Return the bytes per token that a layer keeps for the backward pass where nothing is recomputed."""
    width = WIDTH[zero.dtype]
    # Two norms, each of which gives what the projections keep.
    norms = 2 * (width * model.dim * (_norm_widths(device, zero.dtype) + 1) + SINGLE)
    return norms + attention(model, zero, ranks, tokens, segments, device) + width * 3 * model.hidden_dim


def kept(
    model: ModelConfig, zero: ZeroConfig, ranks: int, tokens: int, segments: bool = False, device: str = "cuda"
) -> float:
    """Return the bytes per token that all layers keep, as `activation_checkpointing` says, with what surrounds them."""
    width, dim, narrow = WIDTH[zero.dtype], model.dim, model.n_kv_heads * model.head_dim
    each = layer(model, zero, ranks, tokens, segments, device)
    if model.activation_checkpointing == "full":
        each = width * dim  # what comes in
    elif model.activation_checkpointing == "selective":  # and what the narrow products and attention give
        each = width * (4 * dim + 2 * narrow)
        if not in_blocks(device, zero.dtype, tokens):
            each += width * dim + SINGLE * model.n_heads
    last = width * dim * _norm_widths(device, zero.dtype) + SINGLE
    ids = 2 * INDEX  # of the embedding, and of the positions that are read
    rotary = 2 * width * model.head_dim  # rows of the same positions share theirs
    return model.n_layers * each + last + ids + rotary + masks(zero.dtype, tokens, segments, device)


def masks(dtype: str, tokens: int, segments: bool, device: str) -> float:
    """Return the bytes per token of what several segments see, made once for all layers."""
    if not segments or in_runs(device, dtype):
        return 0.0
    return WIDTH[dtype] * _mean_end(tokens, BLOCK if in_blocks(device, dtype, tokens) else MASKED_BLOCK)


def working(
    model: ModelConfig, zero: ZeroConfig, ranks: int, tokens: int, segments: bool = False, device: str = "cuda"
) -> float:
    """Return the bytes per token that the backward pass of one layer holds beside what was kept: the widest moment.

    The layer's activations where they are recomputed, and gradients of the feed-forward's insides and of the stream.
    """
    again = 0.0 if model.activation_checkpointing == "none" else layer(model, zero, ranks, tokens, segments, device)
    return again + WIDTH[zero.dtype] * (4 * model.hidden_dim + 3 * model.dim)


def loss_head(model: ModelConfig, dtype: str, tokens: float, device: str = "cuda") -> float:
    """Return the bytes of a loss over so many tokens: the gradients it makes at once, and a chunk of logits."""
    assert model.vocab_size is not None
    chunk = min(max(128 * model.vocab_size, CHUNK[device]), int(tokens) * model.vocab_size)
    return loss_gradients(model, dtype, tokens) + chunk * (WIDTH[dtype] + 2 * SINGLE)


def loss_gradients(model: ModelConfig, dtype: str, tokens: float) -> float:
    """Return the bytes of what a loss over so many tokens keeps: gradients of its input, and in float32 of the head's weight."""
    assert model.vocab_size is not None
    return tokens * model.dim * WIDTH[dtype] + model.vocab_size * model.dim * SINGLE


def logits(model: ModelConfig, dtype: str, tokens: float) -> float:
    """Return the bytes of whole logits that are learned from, as PPO does: made, in float32, their softmax, its gradient."""
    assert model.vocab_size is not None
    return tokens * model.vocab_size * (2 * WIDTH[dtype] + 3 * SINGLE)


# --- weights at work, communication, sampling ----------------------------------------------------------------------


def gathered(model: ModelConfig, zero: ZeroConfig, ranks: int) -> float:
    """Return the bytes of weights that stage 3 holds gathered while a model runs."""
    return min(parameters(model), LIVE) * WIDTH[zero.dtype] if zero.stage == 3 and ranks > 1 else 0.0


def buckets(model: ModelConfig, zero: ZeroConfig, ranks: int, device: str = "cuda") -> float:
    """Return the bytes of the buffers in which gradients are reduced: on a CPU only what is written takes memory."""
    if zero.stage == 0 or (zero.stage == 1 and zero.dtype == "bfloat16" and not zero.offload_optimizer):
        return 0.0  # allocated for the update alone, when no activation is left
    numbers = BUCKET if device == "cuda" else min(BUCKET, parameters(model))
    count = 2 if zero.stage == 2 and device == "cuda" else 1  # one fills while the other is sent
    return float(numbers * WIDTH[zero.dtype] * count)


def cache(model: ModelConfig, dtype: str, tokens: int) -> int:
    """Return the bytes of keys and values of one response, with its prompt."""
    return 2 * model.n_layers * model.n_kv_heads * model.head_dim * WIDTH[dtype] * tokens


def _norm_widths(device: str, dtype: str) -> int:
    """Return how many tensors of the model's width a norm keeps (norm.py) beside what it gives.

    What comes in; but for our own kernel what is normed and not yet scaled, too; and torch on a CPU keeps the first in float32.
    """
    if device == "cuda":
        return 2
    return 1 if dtype == "float32" else 3


def _mean_end(tokens: int, rows: int) -> float:
    """Return how many keys a query has computed on average, `rows` queries at a time over the keys up to the last's."""
    return (
        sum((min(start + rows, tokens) - start) * min(start + rows, tokens) for start in range(0, tokens, rows))
        / tokens
    )


# --- together ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """What a rank holds at a phase's widest moment, in bytes of its device, and what of it is in the host's memory."""

    states: States  # of the models in training
    read: float = 0.0  # weights of the models that are only read
    activations: float = 0.0  # kept for the backward pass
    working: float = 0.0  # of one layer, in the backward pass
    logits: float = 0.0  # and the gradients of the loss
    gathered: float = 0.0  # whole weights at stage 3
    buckets: float = 0.0  # of communication
    cache: float = 0.0  # keys and values

    @property
    def total(self) -> float:
        """All of the device's memory."""
        parts = self.read, self.activations, self.working, self.logits, self.gathered, self.buckets, self.cache
        return self.states.device + sum(parts)


def models(
    model: ModelConfig, zero: ZeroConfig, ranks: int, own: ModelCounts, device: str, whole: bool = False
) -> Footprint:
    """Return what models of one shape take, without any of their work; with `whole` stage 3 shards only those that learn."""
    states, others, sharded = States(), 0.0, ranks if zero.stage == 3 and not whole else 1
    for scalar, learning, reading in own.heads:
        states = sum((trained(model, zero, ranks, scalar, device) for _ in range(learning)), states)
        others += reading * read(model, zero.dtype, sharded, scalar, device).weights
    return Footprint(
        states, others, 0, 0, 0, gathered(model, zero, ranks), own.learning * buckets(model, zero, ranks, device)
    )


def training(
    model: ModelConfig,
    zero: ZeroConfig,
    ranks: int,
    rows: int,
    tokens: int,
    segments: bool = False,
    device: str = "cuda",
    own: ModelCounts = ALONE,
    learned: int | None = None,
    whole: bool = False,
) -> Footprint:
    """Return what a rank holds in the backward pass of a micro-batch: `rows` of `tokens` tokens.

    Models are trained one after the other; with `learned` tokens of each row the logits of these are held whole, as PPO does.
    """
    number = rows * tokens
    held = models(model, zero, ranks, own, device, whole)
    head = (
        loss_head(model, zero.dtype, number, device) if learned is None else logits(model, zero.dtype, rows * learned)
    )
    return dataclasses.replace(
        held,
        activations=number * kept(model, zero, ranks, tokens, segments, device),
        working=number * working(model, zero, ranks, tokens, segments, device),
        logits=head,
    )


def sampling(
    model: ModelConfig,
    dtype: str,
    responses: int,
    tokens: int,
    whole: int,
    beside: Footprint | None = None,
    *,
    draws: bool = True,
) -> Footprint:
    """Return what a rank holds while it samples `responses` of up to `tokens` tokens with `whole` unsharded models.

    `beside` are models in training, which stay where they are. In float32 the weights of the one that `draws` are there twice, as a
    CPU may lay them out anew (`linear.packed`).
    """
    assert model.vocab_size is not None
    base = Footprint(States()) if beside is None else dataclasses.replace(beside, gathered=0.0)
    return dataclasses.replace(
        base,
        read=base.read + (whole + (draws and dtype == "float32")) * read(model, dtype).weights,
        logits=responses
        * model.vocab_size
        * (WIDTH[dtype] + 3 * SINGLE),  # of one token each, and what draws from them
        cache=float(responses * cache(model, dtype, tokens)),
    )
