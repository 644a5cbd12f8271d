"""lm-evaluation-harness, which nothing else imports: our model as one of its models, and its tasks over our rows.

What it prints and its progress bars are kept off the terminal unless run.verbose asks for them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.tasks
import yaml
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.hendrycks_math.utils import is_equiv
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llamatrain import manifest
from llamatrain.chat import B_INST, B_SYS, E_INST, E_SYS
from llamatrain.errors import UserError
from llamatrain.settings import Sampling

from . import answers, code_tasks
from .config import BenchmarkConfig
from .reading import Reader
from .suites import Group, Member, local_files, read_rows

VERSION = importlib.metadata.version("lm_eval")
HARNESS, OURS = Path(lm_eval.tasks.__file__).parent, Path(__file__).with_name("tasks")
EXAMPLES_SEED = 1234  # by which the harness draws examples
WRITTEN = 256  # tokens, where a task says no limit: the harness's own
CODE = tuple(code_tasks.PROGRAMS)


# --- our model as one of the harness's ---------------------------------------------------------------------------


class Model(LM):  # type: ignore[misc]
    """A checkpoint of ours, as the harness asks it; to the harness there is one rank, and the `Reader` shares the work.

    Ids, cuts and stops are those of its own `hf` model: BOS before every context, what is too long cut at its beginning.
    """

    def __init__(self, reader: Reader, seed: int) -> None:
        super().__init__()
        self.reader, self.seed = reader, seed
        self.shortened: set[int] = set()  # limits of tasks that the model's context does not hold

    def ids(self, text: str, bos: bool = True) -> list[int]:
        """Return a text's ids; in a rendered dialogue BOS and EOS stand as text."""
        tokenizer, control = self.reader.tokenizer, {"<s>": self.reader.tokenizer.bos_id}
        if not text.startswith("<s>"):
            return tokenizer.encode(text, bos=bos)
        control["</s>"] = tokenizer.eos_id
        parts = [part for part in re.split(r"(</?s>)", text) if part]
        return [i for part in parts for i in ([control[part]] if part in control else tokenizer.encode(part))]

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and of its continuation, encoded together."""
        if not context:
            return [self.reader.tokenizer.bos_id], self.ids(continuation, bos=False)
        spaces = len(context) - len(context.rstrip())  # a space before an answer is the answer's
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        own = self.ids(context)
        return own, self.ids(context + continuation)[len(own) :]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) how likely the continuation is, and whether it is the greedy one."""
        return self.reader.loglikelihoods([self.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood of each text, read in windows where it is longer than the context."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.ids(request.args[0]), self.reader.tokenizer.bos_id, self.reader.context, 1
            )
            for window in map(make_disjoint_window, windows):
                pairs.append((list(window[0]), list(window[1])))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (found, _) in zip(owners, self.reader.loglikelihoods(pairs), strict=True):
            sums[number] += found
        return sums

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what is written after each context, up to a stop of its task."""
        texts: list[str] = [""] * len(requests)
        drawn = Counter[tuple[str, int]]()
        keys = []
        for request in requests:
            place = (request.task_name, request.doc_id)
            keys.append((f"{place[0]}/{place[1]}", drawn[place]))
            drawn[place] += 1
        for wanted, numbers in _alike(requests).items():
            sampling, until = self._sampling(dict(wanted))
            prompts = [self.ids(requests[i].args[0]) for i in numbers]
            made = self.reader.texts(prompts, [keys[i] for i in numbers], sampling, until)
            for number, text in zip(numbers, made, strict=True):
                texts[number] = text
        return texts

    def _sampling(self, wanted: dict[str, Any]) -> tuple[Sampling, list[str]]:
        limit = int(wanted.get("max_gen_toks", WRITTEN))
        if limit >= self.reader.context:
            self.shortened.add(limit)
            limit = self.reader.context // 2
        sampled = wanted.get("do_sample", wanted.get("temperature", 0) > 0)
        temperature, top_p = (wanted.get("temperature", 1.0), wanted.get("top_p", 1.0)) if sampled else (0.0, 1.0)
        until = [wanted["until"]] if isinstance(wanted.get("until"), str) else list(wanted.get("until", ()))
        return Sampling(temperature, top_p, limit, self.seed, "benchmark"), [*until, "</s>"]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a dialogue as the released chat format writes it; an answer that is begun has no end."""
        text = system = ""
        for message in chat_history:
            content = message["content"]
            if message["role"] == "system":
                system = B_SYS + content + E_SYS
            elif message["role"] == "user":
                text, system = f"{text}<s>{B_INST} {(system + content).strip()} {E_INST}", ""
            else:
                text += f" {content.strip()} </s>"
        return text if add_generation_prompt else text.removesuffix(" </s>")

    @property
    def tokenizer_name(self) -> str:
        """Return the tokenizer's hash."""
        return self.reader.tokenizer.fingerprint


def _alike(requests: Sequence[Any]) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """Return how texts are to be written -> the requests that say so."""
    found: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for number, request in enumerate(requests):
        how = {key: tuple(value) if isinstance(value, list) else value for key, value in request.args[1].items()}
        found.setdefault(tuple(sorted(how.items())), []).append(number)
    return found


# --- tasks -------------------------------------------------------------------------------------------------------


@dataclass
class Leaf:
    """A task, not yet with its rows, which may lie on the hub."""

    name: str
    member: Member
    entry: Any
    cfg: BenchmarkConfig
    files: Mapping[str, list[Path]] | None  # split -> local files; None: the hub's

    def settings(self) -> dict[str, Any]:
        """Return all that its result depends on, apart from the checkpoint."""
        cfg, ours = self.cfg, self.entry.yaml_path.parent == OURS
        return {
            "harness": VERSION,
            "definition": _definition(self.entry.yaml_path) if ours else "harness",
            "shots": self.member.shots,
            "rows": _hash_of(self.files) if self.files is not None else "hub",
            "max_rows": cfg.max_rows,
            "chat_template": cfg.chat_template,
            "tokenizer": cfg.tokenizer,
            "dtype": cfg.dtype,
            **({"seed": cfg.run.seed, **{key: getattr(cfg, key) for key in CODE_KEYS}} if self.name in CODE else {}),
        }

    def build(self) -> Any:
        """Return it as the harness's object, with its rows. UserError where they cannot be had, or are of another form."""
        cfg = load_yaml(self.entry.yaml_path, resolve_func=True)
        cfg = {key: value for key, value in cfg.items() if key not in ("tag", "group", "task_list")}
        cfg |= {"num_fewshot": self.member.shots, **_own(self.name, self.cfg)}
        if self.files is not None:
            used = self._splits(cfg)
            rows = {split: _data_set(paths) for split, paths in self.files.items() if split in used}
            cfg["custom_dataset"] = lambda **_: rows
            cfg |= {key: None for key in SPLITS if cfg.get(key) not in rows}
        try:
            task = ConfigurableTask(config=cfg)
        except UserError:
            raise
        except Exception as error:  # the hub's errors, of which there are many, and a row without what the task reads
            where = f"rows in root={self.cfg.root}" if self.files is not None else f"{cfg['dataset_path']} of the hub"
            hint = "need its published form" if self.files is not None else "need a network, or root=DIR with its rows"
            raise UserError(f"{self.name}: cannot use {where} ({type(error).__name__}: {error}): {hint}") from error
        task.set_fewshot_seed(seed=EXAMPLES_SEED)
        return task

    def _splits(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return the splits that are read: the measured one and, where examples are drawn from rows, theirs."""
        assert self.files is not None
        measured = cfg.get("test_split") or cfg["validation_split"]
        own = (cfg.get("fewshot_config") or {}).get("split")
        examples = (
            own or cfg.get("fewshot_split") or cfg.get("training_split") or cfg.get("validation_split") or measured
        )
        drawn = self.member.shots > 0 and "samples" not in (cfg.get("fewshot_config") or {})
        used: list[str] = [measured, examples] if drawn else [measured]
        for split in used:
            if split not in self.files:
                where = next(iter(self.files.values()))[0].parent
                raise UserError(
                    f"root={self.cfg.root}: {self.name} reads the split '{split}': need {where}/{split}.jsonl"
                )
        return used


SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
CODE_KEYS = ("programs_per_problem", "code_temperature", "code_top_p", "code_seconds")


def _own(task: str, cfg: BenchmarkConfig) -> dict[str, Any]:
    """Return what a task of ours needs of Python: how it scores."""
    if task in CODE:
        ks = sorted({1, cfg.programs_per_problem})
        sampled = {"do_sample": True, "temperature": cfg.code_temperature, "top_p": cfg.code_top_p}
        greedy = {"do_sample": False}
        known = load_yaml(OURS / f"{task}.yaml")["generation_kwargs"]
        run = {"function": "custom", "filter_fn": code_tasks.runs(task, cfg.code_seconds)}
        return {
            "generation_kwargs": {**known, **(sampled if cfg.code_temperature else greedy)},
            "repeats": cfg.programs_per_problem,
            "filter_list": [{"name": "run", "filter": [run]}],
            "process_results": code_tasks.score(ks),
            "metric_list": [{"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True} for k in ks],
        }
    if task.startswith(
        "agieval_"
    ):  # examples are other rows than the question; of several right answers the first is shown
        target = {} if task == "agieval_math" else {"doc_to_target": "{{choices[gold[0]]}}"}
        return {"fewshot_config": {"split": "test", **target}}
    if task == "squad":
        return {"process_results": answers.squad}
    if task == "quac":
        return {"process_results": answers.quac, "process_docs": _questions}
    if task.startswith("math_"):
        return {"process_results": answers.math(is_equiv)}
    return {}


def _questions(dialogues: Any) -> Any:
    return _listed(answers.quac_questions(dialogues))


def _data_set(paths: list[Path]) -> Any:
    return _listed(read_rows(paths))


def _listed(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _definition(path: Path) -> str:
    """Return the hash of a task's file and of the one that it includes."""
    text = path.read_bytes()
    included = yaml.safe_load(text).get("include")
    return hashlib.sha256(text + ((path.parent / included).read_bytes() if included else b"")).hexdigest()


def _hash_of(files: Mapping[str, list[Path]]) -> str:
    hashes = [f"{split} {path.name} {manifest.sha256(path)}" for split, paths in files.items() for path in paths]
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def leaves(group: Group, cfg: BenchmarkConfig) -> Iterator[Leaf]:
    """Yield the tasks of a group's members. MissingFileError names the first whose rows are not in root, where that is given."""
    folders = [OURS, *(HARNESS / folder for folder in group.harness)]
    index = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[str(path) for path in folders]).task_index
    for member in group.members:
        for name in [leaf for task in member.tasks for leaf in _below(task, index)]:
            own = index[name].cfg
            files = (
                None if cfg.root is None else local_files(Path(cfg.root), own["dataset_path"], own.get("dataset_name"))
            )
            yield Leaf(name, member, index[name], cfg, files)


def _below(name: str, index: Mapping[str, Any]) -> list[str]:
    """Return the tasks of a group of the harness, or the task itself."""
    entry = index[name]
    if entry.tags and entry.cfg is None:
        return sorted(entry.tags)
    if "group" not in entry.cfg:
        return [name]
    return [leaf for child in entry.cfg["task"] for leaf in _below(child, index)]


# --- measuring ---------------------------------------------------------------------------------------------------


def measure(model: Model, leaf: Leaf) -> dict[str, Any]:
    """Return a task's number of rows, and metric -> mean over them: `metric` or, of several filters, `metric,filter`."""
    found = evaluate(
        model,
        {"tasks": {leaf.name: leaf.build()}},
        limit=leaf.cfg.max_rows,
        bootstrap_iters=0,
        log_samples=False,
        apply_chat_template=leaf.cfg.chat_template,
        confirm_run_unsafe_code=leaf.cfg.run_code,
    )
    values = {key: value for key, value in found["results"][leaf.name].items() if isinstance(value, (int, float))}
    means = {key: float(value) for key, value in values.items() if "," in key and "_stderr" not in key}
    return {"rows": int(found["n-samples"][leaf.name]["effective"]), "metrics": means}


def quiet() -> None:
    """Keep the harness's warnings and progress bars off the terminal."""
    lm_eval.api.task.tqdm = lambda rows, **_: rows
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
