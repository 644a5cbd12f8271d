"""Step toxicity: a sequence classifier of the transformers library scores a sample of the kept documents.

    scores.npy     float64: how toxic each sampled document of the piece is

The classifier scores lines; a document is their mean. A line's probability is that of the label named toxic, hate or
label_1, or of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from llamatrain.errors import UserError

from .card import Sampled
from .pieces import Piece

NAMES = ("toxic", "hate", "label_1")
BATCH = 32


def score(folder: Path, piece: Piece, kept: Path, classifier: str, sampled: Sampled) -> None:
    """Write the scores of the sampled ones of a piece's documents whose status in the file `kept` is 0.

    Raises UserError where the folder `classifier` holds no such model or transformers is not installed.
    """
    model = _classifier(classifier)
    numbers = piece.first + np.arange(piece.documents)
    chosen = (np.load(kept, mmap_mode="r")[piece.first : piece.first + piece.documents] == 0) & sampled.of(numbers)
    scores = [
        np.mean(model.score([line for line in text.split("\n") if line.strip()]))
        for _, texts in piece.batches(chosen)
        for text in texts
    ]
    np.save(folder / "scores.npy", np.array(scores, dtype=np.float64))


@lru_cache(maxsize=1)
def _classifier(folder: str) -> Classifier:
    import torch

    torch.set_num_threads(1)  # a core for each process; and sums do not depend on how many there are
    return Classifier(folder)


class Classifier:
    """A Hugging Face folder with a sequence classifier in safetensors."""

    def __init__(self, folder: str) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"card.toxicity_classifier={folder}: need a folder with a config.json and model.safetensors"
            )
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError:
            raise UserError("card.toxicity_classifier: need transformers, which is not installed") from None
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
