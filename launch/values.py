"""A preset's values, each with its reason: what every program is fitted to (`llamatrain.fitting`), and what they share."""

from __future__ import annotations

from llamatrain.config.presets import yaml_name
from llamatrain.fitting import Value

from .fitted import Fit
from .programs import schema_of

Preset = dict[str, list[Value]]  # program -> its values

LARGE = 1e9  # parameters from which on memory is what is short
FROM_TEXT = "share of pretraining text in fine-tuning: small models forget without it"


def preset(fit: Fit, data: str, bad: bool) -> Preset:
    """Return the values of every program; `data` names the data file, `bad`: rows that cannot be read are skipped."""
    made = {"pipeline": _pipeline(fit, data)}
    for program, fitted in fit.programs.items():
        keys = schema_of(program).__dataclass_fields__  # type: ignore[attr-defined]
        values = list(fitted.values)
        if fit.machine.gpus and "dtype" in keys:
            values.append(Value("dtype=bfloat16", "halves what sampling and scoring hold"))
        large = fit.sizes.parameters >= LARGE
        if fit.machine.gpus and "zero" in keys:
            stage = (
                ("zero=stage3", "shards weights and optimizer state")
                if large
                else ("zero=stage1", "which bfloat16 needs")
            )
            values += [Value(*stage), Value("zero.dtype=bfloat16", "of the GPU's fast units")]
        if large and "activation_checkpointing" in keys:
            values.append(Value("activation_checkpointing=full", "a layer's activations are computed again, not kept"))
        if fit.start is not None and "max_length" in keys and fit.context < fit.start.max_seq_len:
            values.append(Value(f"max_length={fit.context}", "tokens: nine of ten dialogues and pairs are shorter"))
        if bad and "bad_rows" in keys:
            values.append(Value("bad_rows=skip", "rows that cannot be read are counted and left out"))
        made[yaml_name(program)] = values
    return {program: values for program, values in made.items() if values}


def _pipeline(fit: Fit, data: str) -> list[Value]:
    method = fit.method
    values = [
        Value(f"data={data}", "which file plays which role"),
        Value(f"ranks={fit.ranks}", f"processes, of {fit.machine.name}"),
        Value(
            f"rejection_base={method.rejection_base}", "a small model starts from SFT rather than from the base model"
        ),
    ]
    if method.continue_pretraining:
        values.append(Value("continue_pretraining=true", "on the texts, before it is fine-tuned; false: as it is"))
    replayed = {program: share for program, share in method.replay.items() if share}
    for number, (program, share) in enumerate(replayed.items()):
        values.append(Value(f"replay.{program}={share:g}", "the same" if number else FROM_TEXT))
    if fit.folds > 1:
        why = "few pairs: so many reward models of each kind, each measured on the part that it did not see; 1: one, unmeasured"
        values.append(Value(f"folds={fit.folds}", why))
    return values
