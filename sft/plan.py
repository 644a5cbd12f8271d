"""What fine-tuning will be, as `llamatrain new` fits it to data and machine. Imports no torch."""

from __future__ import annotations

from llamatrain.fitting import Fitted, Sizes, Value, rhythm


def _fit_sft(size: Sizes) -> Fitted:
    steps = max(1, int(size.epochs * size.dialogues / size.batch_sequences))
    values = [
        Value(f"epochs={size.epochs:g}", "passes over the dialogues"),
        Value(f"batch_sequences={size.batch_sequences}", f"of about {max(1, size.dialogues):,.0f} packed rows"),
        Value(f"optim.lr={size.rate / 3:.2g}", "a third of pretraining's"),
        *rhythm(steps),
    ]
    return Fitted(values, 1.2 * steps * size.batch_sequences * size.context * size.learned)


FITS = {"sft": _fit_sft}
