"""The shape of a model, and how config.json of Hugging Face's LlamaForCausalLM says it. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from llamatrain.errors import UserError, show
from llamatrain.keys import SPEED, above, check_values, least, one_of
from llamatrain.text_files import as_kind, read_json

HF_NAMES = {  # ours -> what config.json calls it
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
}
MOST = {  # of config.json: far above any model, far below what a damaged file would make this machine allocate
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
    "intermediate_size": 10**7,
    "max_position_embeddings": 10**8,
    "rope_theta": 10**15,
    "rms_norm_eps": 1,
}
CHECKPOINTING = ("none", "selective", "full")  # of `activation_checkpointing`


class _Needed(TypedDict):
    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float


class _LlamaFile(_Needed, total=False):
    """What is read of config.json."""

    num_key_value_heads: int | None
    head_dim: int | None
    hidden_act: str | None
    rope_theta: float | None
    rope_parameters: _Rope | None
    rope_scaling: _Rope | None
    attention_bias: bool | None
    mlp_bias: bool | None
    tie_word_embeddings: bool | None
    initializer_range: float | None


class _Rope(TypedDict, total=False):
    rope_type: str
    type: str
    rope_theta: float | None


@dataclass
class ModelConfig:
    """The shape of a model; `vocab_size` None stands for the tokenizer's."""

    vocab_size: int | None = field(metadata=above(0))
    dim: int = field(metadata=above(0))
    n_layers: int = field(metadata=above(0))
    n_heads: int = field(metadata=above(0))
    n_kv_heads: int = field(metadata=above(0))
    hidden_dim: int = field(metadata=above(0))
    max_seq_len: int = field(metadata=above(0))
    rope_theta: float = field(metadata=above(0))
    norm_eps: float = field(metadata=above(0))
    tie_embeddings: bool
    init_std: float = field(metadata=least(0))
    activation_checkpointing: str = field(metadata=one_of(CHECKPOINTING) | SPEED)

    def __post_init__(self) -> None:
        check_values(self, "model.")
        if self.dim % self.n_heads or self.head_dim % 2:
            raise UserError(f"model.dim={self.dim}: need an even multiple of model.n_heads={self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise UserError(f"model.n_heads={self.n_heads}: need a multiple of model.n_kv_heads={self.n_kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def parameters_by_kind(self) -> dict[str, int]:
        """How many parameters a language model of this shape has of each kind of tensor (as `optim.kind_of` names them)."""
        assert self.vocab_size is not None
        embedding = self.vocab_size * self.dim
        narrow = self.n_kv_heads * self.head_dim  # what keys and values are wide
        return {
            "embedding": embedding,
            "attention": self.n_layers * 2 * self.dim * (self.dim + narrow),  # query and output; key and value
            "feed_forward": self.n_layers * 3 * self.dim * self.hidden_dim,  # gate, up and down
            "norm": (2 * self.n_layers + 1) * self.dim,  # two of each layer, and the last
            "head": 0 if self.tie_embeddings else embedding,
        }

    @property
    def parameters(self) -> int:
        """How many parameters a language model of this shape has."""
        return sum(self.parameters_by_kind.values())

    @property
    def decoder_parameters(self) -> int:
        """How many parameters the model has without a head."""
        return self.parameters - self.parameters_by_kind["head"]

    def with_vocabulary(self, size: int) -> ModelConfig:
        """Return this config for a tokenizer of `size` pieces; a larger vocab_size (padding) is kept."""
        if self.vocab_size is not None and self.vocab_size < size:
            raise UserError(f"model.vocab_size={self.vocab_size}: need {size} or more, the tokenizer's pieces")
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
    def from_hf(cls, content: dict[str, Any], where: str | Path = "config.json") -> ModelConfig:
        """Read config.json of a Llama; UserError names the file, the key, what was found and what is needed."""
        try:
            return cls._from_hf(as_kind(content, _LlamaFile))
        except UserError as error:
            # A check of our own names our keys; the reader has config.json before him.
            text = re.sub(r"model\.(\w+)", lambda name: HF_NAMES.get(name[1], name[1]), str(error))
            raise UserError(f"{where}: {text}") from error

    @classmethod
    def _from_hf(cls, content: _LlamaFile) -> ModelConfig:
        rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
        n_heads = content["num_attention_heads"]
        values: dict[str, Any] = {
            **content,
            "num_key_value_heads": content.get("num_key_value_heads") or n_heads,  # older files know no groups
            "rope_theta": rope.get("rope_theta") or content.get("rope_theta") or 10000.0,  # 5 writes it below, 4 beside
        }
        for key, most in MOST.items():
            if not 0 < values[key] <= most:
                raise UserError(f"{key} is {show(values[key])}, need a number above 0, at most {most:,}")
        # What this model cannot do. A key that is absent or null says what it says in transformers.
        head_dim = content["hidden_size"] // n_heads
        only = {
            "model_type": (content["model_type"], "llama"),
            "hidden_act": (content.get("hidden_act") or "silu", "silu"),
            "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
            "head_dim": (content.get("head_dim") or head_dim, head_dim),
            "attention_bias": (content.get("attention_bias") or False, False),
            "mlp_bias": (content.get("mlp_bias") or False, False),
        }
        for key, (value, needed) in only.items():
            if value != needed:
                raise UserError(f"{key} is {show(value)}, need {needed!r}")
        return cls(
            **{name: values[key] for name, key in HF_NAMES.items() if key in MOST},
            tie_embeddings=content.get("tie_word_embeddings") or False,
            init_std=0.02 if (std := content.get("initializer_range")) is None else std,
            activation_checkpointing="none",
        )


class _Architectures(TypedDict, total=False):
    architectures: list[str] | None


def load_config(folder: Path) -> tuple[ModelConfig, bool]:
    """Return the model's configuration, and whether it has a scalar head (a reward model)."""
    path = folder / "config.json"
    content = read_json(path, _Architectures)
    config = ModelConfig.from_hf({**content}, path)
    # Before anything is allocated: no weight takes less than a byte.
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if 0 < held < config.decoder_parameters:
        raise UserError(
            f"{path} describes {config.decoder_parameters:,} parameters, but the weights beside it have {held:,} bytes"
        )
    return config, "LlamaForSequenceClassification" in (content.get("architectures") or [])
