"""Sizes that suit somebody's data and machine, and the time they take; the values of a preset follow from them (`values`).

What follows from them for a program is said in its folder's plan.py (FITS). The rules of what all share:

- The vocabulary grows with the text, so that a small model is not mostly embeddings.
- The context holds nine of ten dialogues and pairs, as far as the machine can take them.
- Pretraining gets two fifths of the minutes and reads the text four times at most: beyond that a repeated token teaches
  less than a new one (Muennighoff et al. 2023, 2305.16264). The model is the largest that then sees a token for each
  of its parameters.
- Rates and batches are those of models of that size in configs/preset/, or lie on the line between them.
- A model to start from keeps its size, vocabulary and rotary table; its rates lie on the line from those to the paper's.
- Seconds follow from the operations of every stage and the machine's speed (`launch.machine`): an estimate.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log
from statistics import fmean

from llamatrain.config.presets import config_folder
from llamatrain.fitting import BESIDE, Fitted, Sizes, power
from llamatrain.flops import flops_per_token
from llamatrain.model.config import ModelConfig
from llamatrain.yaml_files import read_yaml

from .graph import Graph
from .graphs.chat import KINDS, REPLAYED, Chat, chat
from .machine import Machine
from .programs import fits
from .roles import Part, Roles

TEXT = {512: 5e4, 1024: 1e6, 2048: 1e7, 4096: 1e8, 8192: 1e9, 32000: float("inf")}  # vocabulary -> bytes up to which
BYTES = {512: 2.1, 1024: 2.8, 2048: 3.2, 4096: 3.6, 8192: 3.9, 32000: 4.1}  # vocabulary -> bytes a token, of English
MOST_ON_CPU = 4096  # pieces
CONTROL = 259  # pieces that are bytes or control a text
MERGES = 0.4  # pieces that a letter of the text's words can give; 0.5 of them in 200 kB of English, more in less
SPOKEN = 0.8  # of those bytes a token of dialogues has: the pieces are those of the texts
COVERED = 0.99995  # of the characters, which need pieces of their own
CONTEXTS = (128, 256, 512, 1024, 2048)
RATES = {"tiny": 3e-3, "small": 2e-3, "stories": 1e-3, "stories42m": 6e-4, "stories110m": 6e-4}
LARGEST_ON_CPU = "stories"
# Parameters -> rate of a model that is there already. The shares that programs take of it make Llama 2 7B's 2e-5 of
# fine-tuning (paper 3.1), 6e-6 of reward models and 1.5e-6 of PPO.
RATES_BY_SIZE = {1e6: 3e-3, 3e6: 2e-3, 1.5e7: 1e-3, 1.1e8: 6e-4, 7e9: 6e-5}
EPOCHS = 4
MOST_EPOCHS, FEWEST_TOKENS = 20, 500_000  # a very small text is read more often, for so many tokens
# Of pretraining and fine-tuning: with less no answer ends, whatever the minutes.
LEAST_TOKENS, LEAST_UPDATES = 300_000, 100
PRETRAINING, TUNING = 0.4, 0.15  # of the minutes, at most
FEW_PAIRS, LONG = 1000, 20  # reward models of fewer pairs are cross-validated, where there are so many minutes


def method(roles: Roles) -> Chat:
    """Return what the graph's keys are in the preset that is written."""
    text = 0.1 if roles.parts["document"].rows else 0.0
    return Chat(
        method="chat",
        safety_shares=[1.0],
        rounds=1,
        people_from=1,
        folds=roles.folds,
        mix_share=dict.fromkeys(KINDS),
        rejection_base="sft",
        replay=dict.fromkeys(REPLAYED, text),
        benchmark=None,
        safety_benchmark=None,
        measure_kept=[],
        ppo=True,
        gatt=4,
        distill=None,
        continue_pretraining=bool(roles.data.checkpoint and roles.data.documents),
    )


class Fit:
    """What is fitted: the sizes that the values of all programs follow from."""

    def __init__(self, roles: Roles, machine: Machine, minutes: float, start: ModelConfig | None = None) -> None:
        """Fit to so many minutes, about, on a machine; `start` is the model in `data.checkpoint`."""
        self.start = start
        self.data, self.parts, self.machine, self.folds = roles.data, roles.parts, machine, roles.folds
        self.graph, self.method = Graph(), method(roles)
        chat(self.graph, self.method, roles.data)
        # Starting the stages takes its time, too; a quarter at least is left for what they do.
        self.seconds = max(15 * minutes, 60 * minutes - BESIDE * len(self.graph.stages))
        text = self.parts["document"]
        self.text = _bytes(text)
        known = start.vocab_size if start is not None else None
        self.vocabulary = known or vocabulary(self.text, text, bool(machine.gpus))
        self.context = self._context() if start is None else min(self._context(), start.max_seq_len)
        self.corpus = self.tokens_in(self.text)
        self.shape, self.model, self.tokens = self._model()
        self.answer = self._answer()
        self.ranks = self._ranks()
        self.sizes = self._sizes()
        self.programs: dict[str, Fitted] = {name: fit(self.sizes) for name, fit in fits().items()}

    def tokens_in(self, size: float) -> float:
        """Return about how many tokens so many bytes of text are."""
        return size / next(each for pieces, each in BYTES.items() if self.vocabulary <= pieces or pieces == max(BYTES))

    def spoken(self, size: float) -> float:
        """Return about how many tokens a dialogue of so many bytes is, with the marks of its turns."""
        return self.tokens_in(size) / SPOKEN + 24

    def that_fit(self, part: Part) -> list[float]:
        """Return the tokens of dialogues or pairs, without those that are longer than the context."""
        sizes = (self.spoken(size) for file in part.files for size in file.shape.sizes)
        return [size for size in sizes if size <= self.context]

    def _context(self) -> int:
        most = 2048 if self.machine.gpus else 512
        needed = 0.0
        for part in self._spoken():
            sizes = [size for file in part.files for size in file.shape.sizes]
            if sizes:
                needed = max(needed, self.spoken(_quantile(sizes, 0.9)))
        if not needed:  # nothing is spoken: texts alone
            return 1024 if self.machine.gpus else 256
        return min(most, next((size for size in CONTEXTS if size >= needed), most))

    def _spoken(self) -> list[Part]:
        return [self.parts[name] for name in ("dialogue", *KINDS)]

    def _model(self) -> tuple[str | None, ModelConfig, float]:
        """Return the largest shape that sees a token for each parameter in its minutes, and the tokens it sees.

        A model to start from has no shape's name, and sees what can be afforded.
        """
        if self.start is not None:
            affordable = PRETRAINING * self.seconds / self._seconds_a_token(self.start)
            return None, self.start, min(EPOCHS * self.corpus, affordable)
        shapes = list(RATES)
        if not self.machine.gpus:
            shapes = shapes[: shapes.index(LARGEST_ON_CPU) + 1]
        most = max(EPOCHS * self.corpus, min(MOST_EPOCHS * self.corpus, FEWEST_TOKENS))
        for shape in reversed(shapes):
            values = {**read_yaml(config_folder() / "model" / f"{shape}.yaml"), "max_seq_len": self.context}
            model = ModelConfig(**values).with_vocabulary(self.vocabulary)
            affordable = PRETRAINING * self.seconds / self._seconds_a_token(model)
            tokens = min(most, max(affordable, LEAST_TOKENS))
            if tokens >= model.parameters:
                break
        return shape, model, tokens

    def _seconds_a_token(self, model: ModelConfig) -> float:
        """Return what a token takes, forward and backward, in a sequence of the context's length."""
        return flops_per_token(model.parameters, model, self.context, attention=True) / self.machine.speed

    def _answer(self) -> int:
        """Return the tokens of a response: nine of ten written answers are shorter."""
        answers = [size for part in self._spoken() for file in part.files for size in file.shape.answers]
        wanted = self.tokens_in(_quantile(answers, 0.9)) / SPOKEN if answers else self.context / 4
        return int(min(max(wanted, 24), self.context / 2)) // 8 * 8

    def _ranks(self) -> int:
        """Return the processes: one a core or GPU, as long as each has a few rows of every batch."""
        most = min(self.machine.devices, 64 if self.machine.gpus else 8)
        pairs = [self.parts[kind].rows for kind in KINDS if self.parts[kind].rows]
        rows = [self.packed(self.parts["dialogue"]), *pairs, self.parts["prompt"].rows]
        return power(min([most, *(row / 8 for row in rows if row)]))

    def packed(self, part: Part) -> float:
        """Return how many rows of the context's length dialogues are packed into, about."""
        fit = self.that_fit(part)
        looked_at = sum(len(file.shape.sizes) for file in part.files)
        return part.rows / max(1, looked_at) * sum(fit) / (0.9 * self.context)

    def _sizes(self) -> Sizes:
        """Return what the programs are fitted to."""
        parts, gpus, prompts = self.parts, bool(self.machine.gpus), self.parts["prompt"]
        rows, learned = self.packed(parts["dialogue"]), self._seconds_a_token(self.model)
        affordable = TUNING * self.seconds / max(1e-9, rows * self.context * learned)
        epochs = round(min(2.0, max(affordable, LEAST_UPDATES * self.ranks / max(1, rows))), 2)
        at_once = 0.0004 * self.model.n_layers / (32 * self.machine.devices)  # a step of a batch of responses
        return Sizes(
            seconds=self.seconds,
            gpus=gpus,
            cores=self.machine.cores,
            ranks=self.ranks,
            text=self.text,
            corpus=self.corpus,
            vocabulary=self.vocabulary,
            shape=self.shape,
            parameters=self.model.parameters,
            context=self.context,
            tokens=self.tokens,
            rate=RATES[self.shape] if self.shape is not None else rate_of(self.model.parameters),
            dialogues=rows,
            epochs=epochs,
            batch_sequences=max(self.ranks, min(64 if gpus else 8, power(epochs * rows / 100))),
            pairs={kind: parts[kind].rows for kind in KINDS},
            pairs_held_out={kind: parts[kind].rows_held_out for kind in KINDS},
            folds=self.folds,
            prompts=prompts.rows,
            prompts_held_out=prompts.rows_held_out,
            pair_tokens=self._pair_tokens(),
            answer=self.answer,
            written=self.answer * (at_once + 3 * self.model.parameters / self.machine.speed),
            learned=learned,
        )

    def _pair_tokens(self) -> float:
        """Return the tokens of a prompt with its response, on average."""
        fit = [size for part in self._spoken() for size in self.that_fit(part)]
        return fmean(fit) if fit else self.context / 2

    def estimated(self) -> dict[str, float]:
        """Return program -> about how many seconds its stages take together."""
        found: defaultdict[str, float] = defaultdict(float)
        unknown = Fitted([], 0.0)
        for stage in self.graph.stages.values():
            fitted = self.programs.get(stage.program, unknown)
            kind = str(stage.settings.get("kind", ""))
            found[stage.program] += fitted.start + fitted.seconds_of_kind.get(kind, fitted.seconds)
        return dict(found)


def rate_of(parameters: int) -> float:
    """Return the rate of a model of so many parameters, on the lines between the known ones."""
    known = list(RATES_BY_SIZE)
    inside = min(max(parameters, known[0]), known[-1])
    after = max(1, bisect_left(known, inside))
    low, high = known[after - 1], known[after]
    share = log(inside / low) / log(high / low)
    return float(RATES_BY_SIZE[low] ** (1 - share) * RATES_BY_SIZE[high] ** share)


def vocabulary(size: float, part: Part, gpu: bool) -> int:
    """Return the pieces for so many bytes of text: more for more text, enough for its bytes and twice its characters.

    But no more than its words can be merged into: a text that repeats itself has few.
    """
    characters: Counter[str] = Counter()
    for file in part.files:
        characters.update(file.shape.characters)
    needed, left = 0, COVERED * characters.total()
    for _, count in characters.most_common():
        if left <= 0:
            break
        needed, left = needed + 1, left - count
    wanted = next(pieces for pieces, most in TEXT.items() if size <= most)
    wanted = wanted if gpu else min(wanted, MOST_ON_CPU)
    wanted = next((pieces for pieces in TEXT if pieces >= max(wanted, CONTROL + 2 * needed)), max(TEXT))
    merges = MERGES * sum(map(len, set[str]().union(*(file.shape.words for file in part.files))))
    return min(wanted, int(CONTROL + len(characters) + merges) // 8 * 8)


def _bytes(part: Part) -> float:
    """Return the bytes of text that are learned from."""
    rows = sum(file.shape.rows for file in part.files)
    return part.rows * sum(file.shape.size for file in part.files) / rows if rows else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]
