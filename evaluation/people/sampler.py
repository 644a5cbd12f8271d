"""Responses of the models to what a rater has just written: two, as `compare` samples them (paper 3.2.1), or one."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

from llamatrain import checkpoint, distributed
from llamatrain.chat import Message, decode_response, encode_prompt, too_many
from llamatrain.generation import generate
from llamatrain.responses.models import load_inference, shared_context, shared_tokenizer
from llamatrain.responses.prompts import room_for

from .config import CollectConfig
from .task import Unclear

TRIES = 4  # pairs that are drawn until two responses differ


class Sampler:
    """Samples from one checkpoint or two, a pair at a time."""

    def __init__(self, cfg: CollectConfig) -> None:
        """Load the models."""
        self.cfg = cfg
        paths = [path for path in (cfg.checkpoint_a, cfg.checkpoint_b) if path is not None]
        folders = {
            f"checkpoint_{side}": checkpoint.resolve(path, "sft") for side, path in zip("ab", paths, strict=False)
        }
        self.tokenizer, self.context = shared_tokenizer(folders, cfg.tokenizer), shared_context(folders)
        device = distributed.device()
        self._models = [load_inference(folder, device, cfg.dtype, scalar=False) for folder in folders.values()]
        self._names = paths
        self._one = threading.Lock()

    def pair(self, messages: list[Message], key: str) -> dict[str, Any]:
        """Return two responses that differ, with their models and temperatures; Unclear where there are none.

        Both are a function of seed, key and messages. UserError: a message holds a tag of the chat format.
        """
        prompt = self._prompt(messages)
        draw = random.Random(f"{self.cfg.seed}/{key}")
        with self._one:
            for number in range(TRIES):
                variants = [
                    (side % len(self._models), draw.choice(self.cfg.sampling.temperatures)) for side in range(2)
                ]
                draw.shuffle(variants)
                texts = [self._sample(prompt, key, 2 * number + i, *variant) for i, variant in enumerate(variants)]
                if texts[0] != texts[1]:
                    return _row(texts, [(self._names[model], temperature) for model, temperature in variants])
        raise Unclear("The models give the same response to this: ask something else.")

    def one(self, messages: list[Message], key: str) -> dict[str, Any]:
        """Return a response of the first model, with the model's name and the temperature."""
        prompt = self._prompt(messages)
        temperature = random.Random(f"{self.cfg.seed}/{key}").choice(self.cfg.sampling.temperatures)
        with self._one:
            response = self._sample(prompt, key, 0, 0, temperature)
        return {"response": response, "model": self._names[0], "temperature": temperature}

    def _prompt(self, messages: list[Message]) -> list[int]:
        room = room_for(self.cfg.sampling.max_new_tokens, self.context)
        prompt = [] if too_many(messages, self.tokenizer, self.context) else encode_prompt(messages, self.tokenizer)
        if not 0 < len(prompt) <= self.context - room:
            raise Unclear(f"Too long for the models: they read {self.context - room} tokens. Begin a new conversation.")
        return prompt

    def _sample(self, prompt: list[int], key: str, number: int, model: int, temperature: float) -> str:
        sampling = self.cfg.sampling.at(temperature).seeded(self.cfg.seed, "collect")
        (made,) = generate(self._models[model], [prompt], [(key, number)], sampling, self.tokenizer.eos_id, 1)
        return decode_response(made.tokens, self.tokenizer)


def _row(texts: Sequence[str], variants: Sequence[tuple[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for side, text, (model, temperature) in zip("ab", texts, variants, strict=True):
        row |= {f"response_{side}": text, f"model_{side}": model, f"temperature_{side}": temperature}
    return row
