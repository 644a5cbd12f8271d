"""In-context temperature rescaling (paper 5.1, figure 21): after RLHF, answers to factual prompts hardly depend on the
temperature, while those to creative ones stay diverse. Self-BLEU of the answers to each prompt, over temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any, TypedDict

from llamatrain.errors import UserError
from llamatrain.progress import Progress
from llamatrain.responses.answers import Answerer
from llamatrain.statistics import mean_interval

from .config import ProbeConfig
from .diversity import self_bleu
from .reading import Probe, read_probes, with_system

KINDS = ("factual", "creative")
PROMPTS = Path(__file__).with_name("prompts.jsonl")
SHOWN = 1.0  # the temperature of the headline, or the nearest


class TemperatureProbe(Probe):
    """A prompt of one of the two kinds."""

    prompt: str
    kind: str


class TemperatureAnswers(TypedDict):
    """All answers to a prompt at a temperature."""

    id: str
    kind: str
    temperature: float
    prompt: str
    responses: list[str]
    self_bleu: float


def ask(cfg: ProbeConfig, who: Answerer) -> list[TemperatureAnswers]:
    """Return the answers to each prompt at each temperature, on all ranks."""
    probes = read_probes(cfg.probes or [PROMPTS], TemperatureProbe, cfg.max_probes)
    for probe in probes:
        if probe["kind"] not in KINDS:
            raise UserError(f"probe {probe['id']!r}: kind={probe['kind']}, need one of {', '.join(KINDS)}")
    samples, temperatures = cfg.diversity.samples_per_prompt, cfg.diversity.temperatures
    asked = who.prompts((probe["id"], with_system(probe.get("system", ""), probe["prompt"])) for probe in probes)
    # The same noise at all temperatures: what differs is the temperature alone.
    cases = [(number, temperature) for number in range(len(probes)) for temperature in temperatures]

    def rows_of(items: range, bar: Progress) -> list[TemperatureAnswers]:
        wanted = [(asked[number], sample, t) for number, t in (cases[i] for i in items) for sample in range(samples)]
        prompts, numbers, own = (list(column) for column in zip(*wanted, strict=True))
        made = [answer.text.strip() for answer in who.answer(prompts, numbers, bar, own)]
        rows = list[TemperatureAnswers]()
        for place, item in enumerate(items):
            number, temperature = cases[item]
            texts = made[place * samples : (place + 1) * samples]
            rows.append(
                {
                    "id": probes[number]["id"],
                    "kind": probes[number]["kind"],
                    "temperature": temperature,
                    "prompt": probes[number]["prompt"],
                    "responses": texts,
                    "self_bleu": self_bleu(texts),
                }
            )
        return rows

    prompts = [asked[number] for number, _ in cases]
    size, rest = max(1, cfg.chunk_responses // samples), [samples, temperatures, probes]
    return who.chunks(prompts, size, TemperatureAnswers, rows_of, answers=samples, rest=rest)


def measure(answers: Sequence[TemperatureAnswers]) -> dict[str, Any]:
    """Return kind -> a point per temperature: mean Self-BLEU over prompts, its interval and standard deviation."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        own = [row for row in answers if row["kind"] == kind]
        for temperature in dict.fromkeys(row["temperature"] for row in own):
            values = [row["self_bleu"] for row in own if row["temperature"] == temperature]
            spread = stdev(values) if len(values) > 1 else None
            point = {"temperature": temperature, **mean_interval(values).as_dict(), "sd": spread}
            found.setdefault(kind, []).append(point)
    return {"self_bleu": found}


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return the figures for metrics.jsonl: Self-BLEU at temperature 1, or the nearest."""
    return {f"probe/self_bleu_{kind}": _shown(points)["mean"] for kind, points in found["self_bleu"].items()}


def lines(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is shown in the terminal."""
    return [
        (f"Self-BLEU, {kind}, temperature {point['temperature']:g}", point)
        for kind, points in found["self_bleu"].items()
        for point in points
    ]


def _shown(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(points, key=lambda point: abs(point["temperature"] - SHOWN))
