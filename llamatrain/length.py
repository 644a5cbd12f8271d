"""How long a training lasts, by one rule for all programs that train. Imports no torch.

A global batch is at most one epoch, and more than MOST_EPOCHS are trained only where the user gave the length: a default
that was meant for a corpus of trillions must not go through a few files a million times.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import UserError

KEYS = ("epochs", "iterations", "steps", "tokens")  # that say a length
MOST_EPOCHS = 100


def check_length(
    batch: tuple[str, int], epoch: float, unit: str, epochs: float, keys: Sequence[str], given: Sequence[str]
) -> None:
    """Refuse a batch (its key and size) above one epoch, and too many epochs where none of `keys` was given.

    `given` are the keys that the user gave (`run.given`); an epoch has `epoch` of the batch's units.
    """
    name, size = batch
    if size > epoch:
        raise UserError(
            f"{name}={size}: one epoch has {epoch:,.0f} {unit}; need a batch of at most {max(1, int(epoch)):,}, or more data"
        )
    if epochs > MOST_EPOCHS and not set(keys) & set(given):
        raise UserError(
            f"{' or '.join(keys)}: the default would train {epochs:,.0f} epochs of {epoch:,.0f} {unit}; give the length "
            f"where that is meant, like {keys[0]}=..., or more data"
        )
