"""What comparing and benchmarking models will take. Imports no torch."""

from __future__ import annotations

from llamatrain.given import Given, written
from llamatrain.planning import SEQUENCES, Light, Planner, Work

from .benchmarks.config import BenchmarkConfig
from .config import EvaluateConfig
from .probes.config import TEMPERATURE, TOOLS, ProbeConfig
from .safety.config import SafetyBenchmarkConfig

# Group of benchmarks -> sequences that are read, and tokens of one with its examples (assumptions, from the sets' sizes)
SIZES = {
    "commonsense": (65_000, 130),
    "world_knowledge": (21_500, 250),
    "reading": (22_400, 400),
    "math": (6_300, 1_000),
    "mmlu": (14_042, 700),
    "bbh": (6_511, 900),
    "agieval": (12_000, 1_200),
    "code": (664, 600),
}


def _plan_evaluate(cfg: EvaluateConfig, given: Given) -> Work | Light:
    """The perplexity of each checkpoint, one after the other; the rest reads files."""
    measured = [source.checkpoint for source in cfg.models.values() if source.checkpoint and cfg.corpus]
    if not measured:
        return Light()
    model = given.model(measured[-1])
    read = len(measured) * (cfg.corpus_sequences or SEQUENCES) * model.max_seq_len
    return Work(model, cfg.dtype, tokens=model.max_seq_len, read_rows=cfg.micro_batch_size, read_tokens=read)


PROMPTS = {"truthfulqa": 817, "toxigen": 6541, "bold": 23638, "xstest": 450}  # of the published sets
PROMPT = {"truthfulqa": 250.0, "toxigen": 30.0, "bold": 20.0, "xstest": 20.0}  # tokens of one, with the examples (ours)
PROBES, PROBE = 200, 60.0  # that are asked, and tokens of one (an assumption)


def _plan_safety(cfg: SafetyBenchmarkConfig, given: Given) -> Work | Light:
    """Every prompt of the sets is answered once; judges are read from folders of any size, and not counted."""
    if cfg.checkpoint is None:
        return Light()
    model = given.model(cfg.checkpoint)
    prompts = {name: min(PROMPTS[name], cfg.max_prompts or PROMPTS[name]) for name in cfg.sets or PROMPTS}
    count = sum(prompts.values())
    return Work(
        model,
        cfg.dtype,
        whole=1,
        at_once=cfg.generation_batch_size,
        sampled=count,
        prompt_tokens=sum(PROMPT[name] * own for name, own in prompts.items()) / count,
        written_tokens=written(cfg.sampling.max_new_tokens),
    )


def _plan_probe(cfg: ProbeConfig, given: Given) -> Work:
    """An answer per probe; with tools and without, and after each call; or many at each temperature."""
    answers = float(cfg.max_probes or (20 if cfg.kind == TEMPERATURE and not cfg.probes else PROBES))
    if cfg.kind == TEMPERATURE:
        answers *= cfg.diversity.samples_per_prompt * len(cfg.diversity.temperatures)
    elif cfg.kind == TOOLS:
        answers *= 3  # with one call
    tokens = written(cfg.sampling.max_new_tokens)
    model, batch = given.model(cfg.checkpoint), cfg.generation_batch_size
    return Work(model, cfg.dtype, whole=1, at_once=batch, sampled=answers, prompt_tokens=PROBE, written_tokens=tokens)


def _plan_benchmark(cfg: BenchmarkConfig, given: Given) -> Work:
    """Likelihoods of answers, read; what is written is a small part of the time and left out."""
    model = given.model(cfg.checkpoint)
    sizes = [SIZES[group.name] for group in cfg.groups() if group.name in SIZES]
    read = sum(min(rows, cfg.max_rows or rows) * min(tokens, model.max_seq_len) for rows, tokens in sizes)
    return Work(model, cfg.dtype, tokens=model.max_seq_len, read_rows=cfg.micro_batch_size, read_tokens=read)


PLANS: dict[str, Planner] = {
    "evaluate": _plan_evaluate,
    "safety_benchmark": _plan_safety,
    "probe": _plan_probe,
    "benchmark": _plan_benchmark,
}
