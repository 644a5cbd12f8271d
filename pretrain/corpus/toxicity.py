"""A sequence classifier of the transformers library that scores lines for toxicity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamatrain.errors import UserError

NAMES = ("toxic", "hate", "label_1")
BATCH = 32


class Classifier:
    """A Hugging Face folder with a sequence classifier in safetensors."""

    def __init__(self, folder: str) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"card.toxicity_classifier={folder}: needs a folder with a config.json and model.safetensors"
            )
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError:
            raise UserError("card.toxicity_classifier: needs transformers, which is not installed") from None
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"card.toxicity_classifier={folder}: no sequence classifier: {error}") from error
        labels = {str(name).lower(): int(number) for number, name in self.model.config.id2label.items()}
        self.label = next((labels[name] for name in NAMES if name in labels), max(labels.values()))

    def score(self, lines: Sequence[str]) -> list[float]:
        """Return each line's probability of being toxic."""
        import torch

        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(lines), BATCH):
                batch = self.tokenizer(
                    list(lines[start : start + BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=512,
                    return_tensors="pt",
                )
                scores += self.model(**batch).logits.softmax(-1)[:, self.label].tolist()
        return scores
