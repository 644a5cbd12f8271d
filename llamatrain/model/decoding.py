"""The next token of many sequences, from what a cache keeps of the earlier ones: a forward pass in few calls.

With a token per sequence a layer's arithmetic takes about as long as the calls around it. So this pass does without modules;
it computes what `Transformer.forward` does, from the same weights. Those of a sharded model, which come as modules are
called, it gathers a layer at a time.

Shapes: B sequences, C model dimension, H query heads, K key-value heads, G = H / K query heads a key-value head,
D head dimension, L positions to attend to, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from llamatrain.linear import packed, product, side_by_side
from llamatrain.model.attention import additive, rotate
from llamatrain.model.kv_cache import KVCache
from llamatrain.model.norm import RMSNorm, rms_norm
from llamatrain.model.transformer import Layer, Transformer

Weights = tuple[Tensor, ...]  # matrices that take the same input: one where they lie side by side


class Decoding:
    """A model that goes on from a cache. Its weights must stay in their place meanwhile."""

    def __init__(self, model: Transformer, cache: KVCache, rows: int) -> None:
        """Take a model's weights, and the cache that its prompts are written to."""
        config, decoder = model.config, model.model
        self.cache, self.n_heads, self.n_kv_heads = cache, config.n_heads, config.n_kv_heads
        self.gathering, self.decoder = model.gathering, decoder
        self.embedding, self.norm = decoder.embed_tokens.weight, decoder.norm
        self.end = decoder.embed_tokens if config.tie_embeddings else model.lm_head
        self.head, self.layers = self.end.weight, list[_Layer]()
        if not model.is_sharded:
            self.head = packed(self.head, rows)
            self.layers = [_Layer(cast("Layer", layer), rows) for layer in decoder.layers]
        self.by_products = _by_products(self.embedding)

    def logits(self, last: Tensor, cached: Tensor, end: int) -> Tensor:
        """Return the float32 logits (B, V) behind the last tokens (B,) of the first B slots.

        Each is written behind the `cached` positions (B,) of its slot. None reaches beyond position `end` then: a bound that
        the host knows without asking the device.
        """
        self.cache.reserve(end)
        if self.by_products:
            end = self.cache.room  # unbroken memory is read some three times as fast as pieces of it
        cos, sin = self.cache.angles
        rotary = cos[0, cached], sin[0, cached]  # (B, 1, D) each
        # A slot's heads lie one after the other, as do a head's positions: the place of each new key, (B K,).
        heads = torch.arange(len(last) * self.n_kv_heads, device=last.device).view(-1, self.n_kv_heads)
        places = (heads * self.cache.room + cached[:, None]).flatten()
        # No further than a slot is filled: what lies behind is padding or a former response's.
        seen = torch.arange(end, device=last.device) <= cached[:, None, None, None]  # (B, 1, 1, L)
        hidden = additive(seen, self.embedding.dtype)
        if self.by_products:
            hidden = hidden.expand(-1, self.n_kv_heads, -1, -1).flatten(0, 1)  # (B K, 1, L)
        with self.gathering(self.decoder.embed_tokens):
            x = F.embedding(last, self.embedding)  # (B, C)
        for layer, (keys, values) in zip(self._layers(), self.cache.layers, strict=True):
            new = _times(_normed(x, layer.attention_norm), layer.attention_in)
            new = new.view(len(x), self.n_heads + 2 * self.n_kv_heads, -1)  # queries, keys, values
            rotated = rotate(new[:, : -self.n_kv_heads], rotary)
            _write(keys, places, rotated[:, self.n_heads :])
            _write(values, places, new[:, -self.n_kv_heads :])
            mixed = self._attend(rotated[:, : self.n_heads], keys, values, hidden)
            x = _times(mixed, layer.attention_out).add_(x)
            gate, up = _times(_normed(x, layer.mlp_norm), layer.mlp_in).chunk(2, -1)
            x = _times(F.silu(gate).mul_(up), layer.mlp_out).add_(x)
        with self.gathering(self.norm), self.gathering(self.end):
            return product(_normed(x, self.norm), self.head).float()

    def _layers(self) -> Iterator[_Layer]:
        """Yield each layer's weights; of a sharded model they are there until the next are asked for."""
        yield from self.layers
        for layer in () if self.layers else self.decoder.layers:
            with self.gathering(layer):
                yield _Layer(cast("Layer", layer), rows=0)  # laid out anew for a single product they would gain nothing

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        """Return what queries (B, H, D) mix of the values that they may see, (B, C)."""
        length, width = hidden.shape[-1], queries.shape[-1]
        if not self.by_products:
            # The query heads that share keys become query positions: nothing is repeated.
            grouped = queries.view(len(queries), self.n_kv_heads, -1, width)
            keys, values = keys[: len(queries), :, :length], values[: len(queries), :, :length]
            return F.scaled_dot_product_attention(grouped, keys, values, hidden).flatten(1)
        grouped = queries.reshape(len(queries) * self.n_kv_heads, -1, width)  # (B K, G, D)
        keys, values = (x.flatten(0, 1)[: len(grouped), :length] for x in (keys, values))  # (B K, L, D)
        scores = torch.baddbmm(hidden, grouped, keys.transpose(1, 2), alpha=width**-0.5)
        return torch.bmm(torch.softmax(scores, -1), values).view(len(queries), -1)


class _Layer:
    """A layer's weights."""

    def __init__(self, layer: Layer, rows: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.attention_in = _joined(rows, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        self.attention_out = _joined(rows, attention.o_proj.weight)
        self.mlp_in = _joined(rows, mlp.gate_proj.weight, mlp.up_proj.weight)
        self.mlp_out = _joined(rows, mlp.down_proj.weight)


def _by_products(weight: Tensor) -> bool:
    """Tell whether attention is computed as the two products that it is: torch's kernel for CPUs takes longer over one query."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _joined(rows: int, *weights: Tensor) -> Weights:
    whole = side_by_side(weights, 0)
    return tuple(packed(weight, rows) for weight in (weights if whole is None else (whole,)))


def _times(x: Tensor, weights: Weights) -> Tensor:
    """Return x @ weight.T of each, side by side."""
    parts = [product(x, weight) for weight in weights]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _normed(x: Tensor, norm: RMSNorm) -> Tensor:
    return rms_norm(x, norm.weight, norm.eps)


def _write(store: Tensor, places: Tensor, new: Tensor) -> None:
    """Write a row of new (B, K, D) to each place among the positions of all heads of all slots, (slots, K, room, D)."""
    store.view(-1, store.shape[-1]).index_copy_(0, places, new.reshape(-1, store.shape[-1]))
