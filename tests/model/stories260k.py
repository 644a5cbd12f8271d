"""Reads stories260K, a real small Llama, from llama2.c's version-0 format."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer

EOS = 2


@dataclass
class Stories:
    """The model and its vocabulary; BOS is 1."""

    model: Transformer
    pieces: list[bytes]

    def text(self, tokens: list[int]) -> str:
        """Decode tokens, control tokens left out."""
        return b"".join(self.pieces[token] for token in tokens if token > EOS).decode().strip()


def read(folder: Path) -> Stories:
    """Read stories260K.bin and tok512.bin."""
    raw = (folder / "stories260K.bin").read_bytes()
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len = struct.unpack("7i", raw[:28])
    values = torch.from_numpy(np.frombuffer(raw, dtype=np.float32, offset=28).copy())
    kv_dim = dim // n_heads * n_kv_heads
    shapes = {
        "model.embed_tokens.weight": (vocab_size, dim),
        "input_layernorm.weight": (n_layers, dim),
        "self_attn.q_proj.weight": (n_layers, dim, dim),
        "self_attn.k_proj.weight": (n_layers, kv_dim, dim),
        "self_attn.v_proj.weight": (n_layers, kv_dim, dim),
        "self_attn.o_proj.weight": (n_layers, dim, dim),
        "post_attention_layernorm.weight": (n_layers, dim),
        "mlp.gate_proj.weight": (n_layers, hidden_dim, dim),
        "mlp.down_proj.weight": (n_layers, dim, hidden_dim),
        "mlp.up_proj.weight": (n_layers, hidden_dim, dim),
        "model.norm.weight": (dim,),
    }
    state: dict[str, Tensor] = {}
    at = 0
    for name, shape in shapes.items():
        tensor = values[at : at + int(np.prod(shape))].view(shape)
        at += tensor.numel()
        if name.startswith("model."):
            state[name] = tensor
            continue
        for layer in range(n_layers):
            weight = tensor[layer]
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = halves(weight, dim // n_heads)
            state[f"model.layers.{layer}.{name}"] = weight
    model = Transformer(
        ModelConfig(
            vocab_size=vocab_size,  # positive: the head is tied
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            hidden_dim=hidden_dim,
            max_seq_len=max_seq_len,
            rope_theta=10000.0,
            norm_eps=1e-5,
            tie_embeddings=True,
            init_std=0.02,
            activation_checkpointing="none",
        ),
        seed=None,
    )
    model.load_state_dict(state)
    return Stories(model, _pieces((folder / "tok512.bin").read_bytes(), vocab_size))


def halves(weight: Tensor, head_dim: int) -> Tensor:
    """Permute the rows of a query or key matrix from adjacent rotary pairs to Hugging Face's two halves."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _pieces(raw: bytes, count: int) -> list[bytes]:
    pieces, at = [], 4
    for _ in range(count):
        _, length = struct.unpack_from("fi", raw, at)
        piece = raw[at + 8 : at + 8 + length]
        is_byte = piece.startswith(b"<0x") and length == 6
        pieces.append(bytes([int(piece[3:5], 16)]) if is_byte else piece)
        at += 8 + length
    return pieces
