"""The Llama 2 model: a transformer with a language head or a scalar head, and its key-value cache."""

from llamatrain.model.kv_cache import CacheRows, KVCache
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import ModelConfig, Transformer

__all__ = ["CacheRows", "KVCache", "ModelConfig", "ScalarModel", "Transformer"]
