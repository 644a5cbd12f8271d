"""The Llama 2 transformer (paper 2.2): parameter names, layout and config.json of Hugging Face's LlamaForCausalLM.

Shapes: B rows, T positions, C model dimension, V vocabulary, N selected positions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from llamatrain.errors import UserError
from llamatrain.linear import lay_side_by_side, linear, products
from llamatrain.losses import linear_cross_entropy
from llamatrain.model.attention import (
    LinePlaces,
    Places,
    attend,
    attend_to_batch,
    attend_to_line,
    line_places,
    places,
    rotate,
)
from llamatrain.model.config import ModelConfig
from llamatrain.model.kv_cache import CacheRows, KVCache
from llamatrain.model.norm import RMSNorm


def _keep_narrow(config: ModelConfig, ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what attention gives, and the products but those into the feed-forward, which take most of the memory."""
    packet = getattr(op, "overloadpacket", op)
    if packet in (torch.ops.aten.mm, torch.ops.mkldnn._linear_pointwise, torch.ops.llamatrain.product):
        # A policy sees operators and operands, not modules: the product is known by the shape of its weight, which
        # is the one operand or the other. Gate and up count alone, or joined where they lie side by side.
        second = args[1].t() if packet is torch.ops.aten.mm else args[1]
        wide = {(config.hidden_dim, config.dim), (2 * config.hidden_dim, config.dim)}
        kept = not wide & {tuple(args[0].shape), tuple(second.shape)}
    else:
        kept = "scaled_dot_product" in str(packet) or "varlen_attn" in str(packet)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _recomputed(config: ModelConfig) -> Any:
    """Return what the backward pass computes again of a layer, or None: as `activation_checkpointing` says.

    none; the inner part of the feed-forward, norms and rotations (selective); all of it (full).
    """
    if config.activation_checkpointing == "none" or not torch.is_grad_enabled():
        return None
    if config.activation_checkpointing == "full":
        return noop_context_fn
    return partial(create_selective_checkpoint_contexts, partial(_keep_narrow, config))


@dataclass(frozen=True)
class Init:
    """How a leaf fills its weight: N(0, std) from a stream that depends on the seed and the parameter's name alone.

    The paper does not say how it initialised. Leaves call this in their constructors. Seed None leaves weights as they
    are, to be loaded.
    """

    seed: int | None
    std: float
    name: str = ""

    def at(self, name: str, scale: float = 1.0) -> Init:
        """Return the initialisation of a child."""
        return Init(self.seed, self.std * scale, f"{self.name}.{name}" if self.name else name)

    def fill(self, weight: Tensor) -> None:
        """Fill the weight in place, the same on every device, dtype and rank; or note it where it is `drawn_later`."""
        if self.seed is None or weight.is_meta:
            return
        noted = _noted.get()
        if noted is not None:
            noted.append((weight, self))
        else:
            with torch.no_grad():
                weight.copy_(self.draw(weight.shape))

    def draw(self, shape: torch.Size) -> Tensor:
        """Return the weight's values, float32 on the CPU."""
        digest = hashlib.sha256(f"{self.seed}/{self.name}".encode()).digest()
        # NumPy's Philox, not torch: torch's streams differ between devices and releases.
        random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        values = random.standard_normal(tuple(shape), dtype=np.float32)
        values *= self.std
        return torch.from_numpy(values)


Noted = list[tuple[Tensor, Init]]

_noted: ContextVar[Noted | None] = ContextVar("noted", default=None)


@contextmanager
def drawn_later() -> Iterator[Noted]:
    """Leave the weights of models made inside as they are; yield them with how each is to be filled."""
    noted: Noted = []
    before = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(before)


class Linear(nn.Linear):
    """A matrix without bias, initialised in its constructor."""

    def __init__(self, n_in: int, n_out: int, init: Init) -> None:
        super().__init__(n_in, n_out, bias=False)
        init.fill(self.weight)

    def reset_parameters(self) -> None:
        """Do nothing: the constructor fills the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Head(Linear):
    """The matrix from the last hidden states to the vocabulary, and the loss behind it.

    The loss is computed in here, where ZeRO-3 has the weight gathered.
    """

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        return linear(x, self.weight) if targets is None else linear_cross_entropy(x, self.weight, targets)


class Embedding(nn.Embedding):
    """Token embeddings, initialised in their constructor."""

    def __init__(self, vocab_size: int, dim: int, init: Init) -> None:
        super().__init__(vocab_size, dim)
        init.fill(self.weight)

    def reset_parameters(self) -> None:
        """Do nothing: the constructor fills the weight."""


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int, init: Init) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        kv_dim = config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, config.dim, init.at("q_proj.weight"))
        self.k_proj = Linear(config.dim, kv_dim, init.at("k_proj.weight"))
        self.v_proj = Linear(config.dim, kv_dim, init.at("v_proj.weight"))
        self.o_proj = Linear(config.dim, config.dim, init.at("o_proj.weight", residual_scale(config)))
        self.lay_out()

    def lay_out(self) -> None:
        """Lay the matrices that take the same input side by side."""
        lay_side_by_side(self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)

    def forward(self, x: Tensor, at: Places | LinePlaces, cache: CacheRows | None) -> Tensor:
        weights = self.q_proj.weight, self.k_proj.weight, self.v_proj.weight
        by_head = [part.view(*part.shape[:-1], -1, self.head_dim) for part in products(x, *weights)]
        queries, keys, values = by_head  # (B, T, H, D), (B, T, K, D) twice; of a line (N, H, D), (N, K, D)
        if isinstance(at, LinePlaces):
            mixed = attend_to_line(queries, keys, values, at)
        elif cache is None:
            mixed = attend_to_batch(queries, keys, values, at)
        else:
            mixed = self._attend_and_keep(queries, keys, values, at, cache)
        return linear(mixed.flatten(-2), self.o_proj.weight)

    def _attend_and_keep(self, queries: Tensor, keys: Tensor, values: Tensor, at: Places, cache: CacheRows) -> Tensor:
        """Return what prompts mix of their own values, (B, T, H, D), and cache keys and values."""
        # Keys are cached rotated: a position never changes once it is there.
        queries, keys = (rotate(x, at.rotary).transpose(1, 2) for x in (queries, keys))
        values = values.transpose(1, 2)
        cache.fill(self.layer, keys, values)
        return attend(queries, keys, values).transpose(1, 2)


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, which keeps its two inputs alone; their gradients lie side by side."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = gate.new_empty(*gate.shape[:-1], 2 * gate.shape[-1]).chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate, grad_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, (..., K)."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.silu(gate) * up
    out: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, init: Init) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.hidden_dim, init.at("gate_proj.weight"))
        self.up_proj = Linear(config.dim, config.hidden_dim, init.at("up_proj.weight"))
        self.down_proj = Linear(config.hidden_dim, config.dim, init.at("down_proj.weight", residual_scale(config)))
        self.lay_out()

    def lay_out(self) -> None:
        """Lay the matrices that take the same input side by side."""
        lay_side_by_side(self.gate_proj.weight, self.up_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = products(x, self.gate_proj.weight, self.up_proj.weight)  # (..., K) each, K the hidden dimension
        return linear(swiglu(gate, up), self.down_proj.weight)


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: ModelConfig, layer: int, init: Init) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer, init.at("self_attn"))
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config, init.at("mlp"))

    def forward(self, x: Tensor, at: Places | LinePlaces, cache: CacheRows | None, select: Tensor | None) -> Tensor:
        """Return (B, T, C), or (N, C) at the flattened positions `select`, beyond which attention alone looks."""
        x = x + self.self_attn(self.input_layernorm(x), at, cache)
        if select is not None:  # after attention, which needs every position's keys and values
            x = x.flatten(0, -2).index_select(0, select)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def _through(
    config: ModelConfig,
    layer: nn.Module,
    x: Tensor,
    at: Places | LinePlaces,
    cache: CacheRows | None,
    select: Tensor | None,
) -> Tensor:
    """Return what a layer gives; some of it is computed again in the backward pass where `config` says so."""
    recomputed = _recomputed(config)
    if recomputed is None:
        out: Tensor = layer(x, at, cache, select)
    else:
        out = checkpoint(layer, x, at, cache, select, use_reentrant=False, context_fn=recomputed)
    return out


_FEW = 0.9  # of the positions: so many are still worth picking before the last feed-forward


class Decoder(nn.Module):
    """Embeddings, layers and the final norm: what the language model and the scalar model share."""

    def __init__(self, config: ModelConfig, init: Init) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise UserError("model.vocab_size=null: need a number, or a tokenizer to take it from")
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.dim, init.at("embed_tokens.weight"))
        self.layers = nn.ModuleList(Layer(config, i, init.at(f"layers.{i}")) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.through = _through  # of one layer: `compile` puts a compiled one here, which serves them all

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: CacheRows | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """Return the normed hidden states, (B, T, C), or (N, C) at the flattened positions `select`."""
        config, line = self.config, None
        at = self._places(input_ids, position_ids, segment_ids, cache)
        if isinstance(at, LinePlaces):
            line = at.line
            input_ids, select = line.pick(input_ids), None if select is None else line.places_of(select)
        x = self.embed_tokens(input_ids)  # (B, T, C), of a line (N, C)
        # Where few positions are read (a prompt's last, a response's), the last feed-forward runs on these alone; where
        # almost all are, picking them costs more than it saves.
        few = select is not None and len(select) <= _FEW * input_ids.numel()
        for layer in self.layers:
            chosen = select if few and layer is self.layers[-1] else None
            x = self.through(config, layer, x, at, cache, chosen)
        if select is not None and not few:
            x = x.flatten(0, -2).index_select(0, select)  # (N, C)
        out: Tensor = self.norm(x)
        return line.lay_out(out) if line is not None and select is None else out

    def _places(
        self, input_ids: Tensor, position_ids: Tensor | None, segment_ids: Tensor | None, cache: CacheRows | None
    ) -> Places | LinePlaces:
        if cache is not None:
            return Places(cache.rotary, None, in_blocks=False)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        if segment_ids is not None:
            segment_ids = segment_ids.expand(input_ids.shape)
        about = self.config.head_dim, self.config.rope_theta, self.norm.weight.dtype
        # A line is of another length in each batch: a compiled layer would be compiled again and again.
        at = line_places(position_ids, segment_ids, *about) if self.through is _through else None
        return at or places(position_ids, segment_ids, *about)


class Transformer(nn.Module):
    """The language model. `seed` initialises it; None leaves the weights as they are, to be loaded.

    `gathering` is what gives a module's weights to who reads them without calling it: nothing where they are whole.
    """

    gathering: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext

    def __init__(self, config: ModelConfig, seed: int | None) -> None:
        super().__init__()
        init = Init(seed, config.init_std)
        self.config = config
        self.model = Decoder(config, init.at("model"))
        if not config.tie_embeddings:  # a tied head has no parameter of its own, as HF stores it
            assert config.vocab_size is not None
            self.lm_head = Head(config.dim, config.vocab_size, init.at("lm_head.weight"))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: CacheRows | None = None,
        select: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Return float32 logits, (B, T, V), or (N, V) at the flattened positions `select` (N,).

        With `targets` (N,), the tokens wanted there, return their summed cross-entropy instead; the logits are then
        never held whole. A token sees the earlier tokens of its own segment (0 is padding; None: one segment a row).
        With a cache the rows are prompts, which are written to it; position_ids and segment_ids are not used.
        """
        x = self.model(input_ids, position_ids, segment_ids, cache, select)
        if not self.config.tie_embeddings:
            out: Tensor = self.lm_head(x, targets)
        elif targets is None:
            out = linear(x, self.model.embed_tokens.weight)
        else:
            out = linear_cross_entropy(x, self.model.embed_tokens.weight, targets)
        return out.float()  # logits of bfloat16 are too coarse for log-probabilities

    @property
    def is_sharded(self) -> bool:
        """Tell whether the weights are sharded over the ranks, and come as modules are called."""
        return self.gathering is not nullcontext

    def new_cache(self, slots: int, longest: int) -> KVCache:
        """Return an empty cache for `slots` sequences of up to `longest` tokens."""
        weight = self.model.norm.weight
        return KVCache(self.config, slots, longest, weight.dtype, weight.device)


def residual_scale(config: ModelConfig) -> float:
    """Return what the matrices that write into the residual stream are scaled by, so that its variance stays level."""
    return 1 / math.sqrt(2 * config.n_layers)
