"""The shape of a model, and how config.json of Hugging Face's LlamaForCausalLM says it. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from llamatrain.errors import UserError
from llamatrain.keys import SPEED

CHECKPOINTING = ("none", "selective", "full")  # of `activation_checkpointing`


@dataclass
class ModelConfig:
    """The shape of a model; `vocab_size` None stands for the tokenizer's."""

    vocab_size: int | None
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    max_seq_len: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    init_std: float
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len", "rope_theta", "norm_eps"):
            if getattr(self, key) <= 0:
                raise UserError(f"model.{key} is {getattr(self, key)}; it must be positive")
        if self.vocab_size is not None and self.vocab_size <= 0:
            raise UserError(f"model.vocab_size is {self.vocab_size}; it must be positive, or null for the tokenizer's")
        if self.dim % self.n_heads or self.head_dim % 2:
            raise UserError(f"model.dim {self.dim} must be an even multiple of model.n_heads {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise UserError(f"model.n_heads {self.n_heads} must be a multiple of model.n_kv_heads {self.n_kv_heads}")
        if self.activation_checkpointing not in CHECKPOINTING:
            found, choices = self.activation_checkpointing, ", ".join(CHECKPOINTING)
            raise UserError(f"model.activation_checkpointing is {found!r}; use one of {choices}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    def with_vocabulary(self, size: int) -> ModelConfig:
        """Return this config for a tokenizer of `size` pieces; a larger vocab_size (padding) is kept."""
        if self.vocab_size is not None and self.vocab_size < size:
            raise UserError(f"model.vocab_size is {self.vocab_size}; the tokenizer has {size} pieces")
        return dataclasses.replace(self, vocab_size=self.vocab_size or size)

    def to_hf(self, scalar_head: bool) -> dict[str, Any]:
        """Return the content of config.json: LlamaForCausalLM, or LlamaForSequenceClassification with one label."""
        config: dict[str, Any] = {
            "architectures": ["LlamaForSequenceClassification" if scalar_head else "LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_seq_len,
            "rope_theta": self.rope_theta,  # read by transformers 4 and vLLM; transformers 5 reads rope_parameters
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "initializer_range": self.init_std,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "use_cache": True,
        }
        if scalar_head:
            config |= {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}, "pad_token_id": 0}
        return config

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> ModelConfig:
        """Read config.json of a Llama; UserError names what this model cannot do."""
        try:
            dim, n_heads = config["hidden_size"], config["num_attention_heads"]
            rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
            only = {
                "model_type": (config["model_type"], "llama"),
                "hidden_act": (config.get("hidden_act", "silu"), "silu"),
                "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
                "head_dim": (config.get("head_dim") or dim // n_heads, dim // n_heads),
                "attention_bias": (config.get("attention_bias", False), False),
                "mlp_bias": (config.get("mlp_bias", False), False),
            }
            for key, (value, needed) in only.items():
                if value != needed:
                    raise UserError(f"config.json: {key} is {value!r}; only {needed!r} is supported")
            return cls(
                vocab_size=config["vocab_size"],
                dim=dim,
                n_layers=config["num_hidden_layers"],
                n_heads=n_heads,
                n_kv_heads=config.get("num_key_value_heads") or n_heads,
                hidden_dim=config["intermediate_size"],
                max_seq_len=config["max_position_embeddings"],
                rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
                norm_eps=config["rms_norm_eps"],
                tie_embeddings=config.get("tie_word_embeddings", False),
                init_std=config.get("initializer_range", 0.02),
                activation_checkpointing="none",
            )
        except KeyError as error:
            raise UserError(f"config.json: the key {error.args[0]!r} is missing") from None
