"""Our model in the harness against the harness's own `hf` model: the same task objects, rows and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM

from evaluation.benchmarks import harness
from evaluation.benchmarks.config import BenchmarkConfig
from evaluation.benchmarks.reading import Reader
from llamatrain.config.compose import compose
from llamatrain.responses.models import load_inference
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet

from .stories import save_stories, write_sets

TASKS = ("piqa", "arc_easy", "arc_challenge", "openbookqa", "gsm8k_cot", "humaneval")


def config(folder: Path, checkpoint: Path, *more: str) -> BenchmarkConfig:
    given = [f"checkpoint={checkpoint}", f"root={folder}/rows", *quiet(folder / "runs", "benchmark"), *more]
    return compose("benchmark", BenchmarkConfig, given)


def model(folder: Path, responses: int = 64) -> harness.Model:
    """Return our model, which holds a folder's weights."""
    loaded = load_inference(folder, "cpu", "float32", scalar=False)  # type: ignore[arg-type]
    return harness.Model(Reader(loaded, Tokenizer(folder), 16, responses, False, lambda: None), seed=0)


def leaves(cfg: BenchmarkConfig) -> dict[str, harness.Leaf]:
    return {leaf.name: leaf for group in cfg.groups() for leaf in harness.leaves(group, cfg)}


class Asked:
    """A request without a task."""

    def __init__(self, *args: Any) -> None:
        self.args, self.task_name, self.doc_id = args, "none", 0


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of stories260K, and beside it the rows of the six real sets."""
    folder = tmp_path_factory.mktemp("stories")
    write_sets(shared_data, folder / "rows")
    return save_stories(shared_data, folder / "model")


@pytest.fixture(scope="module")
def theirs(stories: Path) -> HFLM:
    """The harness's own model of the folder."""
    return Short(pretrained=str(stories), device="cpu", batch_size=16)


class Short(HFLM):  # type: ignore[misc]
    """The harness's own model with room for half of its context, as ours does where a task asks for all of it."""

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        for request in requests:
            if request.args[1].get("max_gen_toks", 0) >= self.max_length:
                request.args[1]["max_gen_toks"] = self.max_length // 2
        return super().generate_until(requests, disable_tqdm=True)


PAIRS = [
    ("Once upon a time", " there was a girl"),
    ("Once upon a time ", "there was a girl"),  # the space is the answer's
    ("", "Once upon a time"),
    ("Question: Where is the dog?\nAnswer:", " in the\nhouse é🙂"),
    ("Once upon a time", " there was a girl"),
    ("Answer:", " A"),
    ("Answer:", " B"),  # read with the one before
    ("The dog ran. " * 200, "It was happy."),  # longer than the context
]


def test_likelihoods_are_those_of_hf(stories: Path, theirs: HFLM) -> None:
    """Also of an empty context, of spaces at the seam, and of what is longer than the model's context."""
    ours = model(stories).loglikelihood([Asked(*pair) for pair in PAIRS])
    others = theirs.loglikelihood([Asked(*pair) for pair in PAIRS], disable_tqdm=True)
    assert [found[0] for found in ours] == pytest.approx([found[0] for found in others], abs=2e-4)
    assert [found[1] for found in ours] == [found[1] for found in others]
    # Of an answer that is longer than the context its end is read, after as much as fits (hf refuses it).
    own = model(stories)
    context, answer = own.pair("A dog.", " It ran." * 300)
    assert len(answer) > own.reader.context
    (cut,) = own.loglikelihood([Asked("A dog.", " It ran." * 300)])
    assert [cut] == own.reader.loglikelihoods([(context[-1:], answer[-own.reader.context :])])
    rolling = [Asked("The dog ran to the little house. " * 60), Asked("Tom was sad.")]
    assert model(stories).loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-5
    )


def test_texts_are_those_of_hf(stories: Path, theirs: HFLM) -> None:
    """Greedy ones, up to a stop, to the limit, and after a prompt that is cut at its beginning."""
    asked = [
        Asked("Once upon a time", {"until": ["."], "max_gen_toks": 40}),
        Asked("Tom and his dog", {"until": ["."], "max_gen_toks": 40}),
        Asked("The bird", {"until": ["\n"], "max_gen_toks": 20, "do_sample": False}),
        Asked("The dog ran. " * 100, {"until": [" and", "the"], "max_gen_toks": 60}),
    ]
    ours = model(stories, responses=2).generate_until(asked)
    assert ours == theirs.generate_until(asked, disable_tqdm=True)
    assert all(ours) and not any("." in text for text in ours[:2])


def test_a_dialogue_has_the_ids_of_its_template(stories: Path, theirs: HFLM) -> None:
    """BOS and EOS are control tokens in a rendered dialogue, and plain text elsewhere."""
    history = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Who are you?"},
    ]
    ours = model(stories)
    text = ours.apply_chat_template(history)
    assert text == theirs.apply_chat_template(history)
    assert ours.ids(text) == theirs.tok_encode(text)


@pytest.mark.slow
def test_the_six_real_sets_count_the_same_as_hf(stories: Path, theirs: HFLM) -> None:
    """On all 600 rows, with the paper's shots: likelihoods, chains of thought, and programs that are run."""
    given = [f"tasks=[{','.join(TASKS)}]", "code_temperature=0", "run_code=true"]
    found = leaves(config(stories.parent, stories, *given))
    assert tuple(sorted(found)) == tuple(sorted(TASKS))
    ours = model(stories)
    for name, leaf in found.items():
        own = harness.measure(ours, leaf)
        assert own == harness.measure(theirs, leaf), name
        assert own["rows"] == 100
