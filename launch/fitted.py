"""Sizes that suit somebody's data and machine, and the time they take; the values of a preset follow from them (`values`).

The rules, all of which are here:

- The vocabulary grows with the text, so that a small model is not mostly embeddings.
- The context holds nine of ten dialogues and pairs, as far as the machine can take them.
- Pretraining gets two fifths of the minutes and reads the text four times at most: beyond that a repeated token teaches
  less than a new one (Muennighoff et al. 2023, 2305.16264). The model is the largest that then sees a token for each
  of its parameters.
- Rates and batches are those of models of that size in configs/preset/, or lie on the line between them.
- Seconds follow from the operations of every stage and the machine's speed (`launch.machine`): an estimate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from llamatrain.config.presets import config_folder
from llamatrain.flops import flops_per_token
from llamatrain.model.config import ModelConfig
from llamatrain.yaml_files import read_yaml

from .graph import Graph
from .graphs.chat import KINDS, Chat, chat
from .machine import Machine
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
EPOCHS = 4
MOST_EPOCHS, FEWEST_TOKENS = 20, 500_000  # a very small text is read more often, for so many tokens
LEAST_TOKENS, LEAST_UPDATES = (
    300_000,
    100,
)  # of pretraining and fine-tuning: with less no answer ends, whatever the minutes
SHARES = {"pretrain": 0.4, "sft": 0.15, "rejection_sampling": 0.1, "ppo": 0.15}  # of the minutes, at most
SAMPLED, STEPS = 6, 60  # responses a prompt and updates of rejection sampling
PAIRS_TO_RATE = 200  # of people, a round
FEW_PAIRS, LONG = 1000, 20  # reward models of fewer pairs are cross-validated, where there are so many minutes
START = 8.0  # seconds of a stage that loads torch


def method(roles: Roles) -> Chat:
    """Return what the graph's keys are in the preset that is written."""
    text = 0.1 if roles.parts["document"].rows else 0.0
    return Chat(
        rounds=1,
        folds=roles.folds,
        mix_share=dict.fromkeys(KINDS),
        rejection_base="sft",
        replay={"sft": text, "rejection_sampling": text},
        ppo=True,
        continue_pretraining=False,
    )


class Fit:
    """What is fitted: the sizes that the values of all programs follow from."""

    def __init__(self, roles: Roles, machine: Machine, minutes: float) -> None:
        """Fit to so many minutes, about, on a machine."""
        self.parts, self.machine, self.folds = roles.parts, machine, roles.folds
        self.graph = Graph()
        chat(self.graph, method(roles), roles.data)
        # Starting the stages takes its time, too; a quarter at least is left for what they do.
        self.seconds = max(15 * minutes, 60 * minutes - START * len(self.graph.stages))
        text = self.parts["document"]
        self.text = _bytes(text)
        self.vocabulary = vocabulary(self.text, text, bool(machine.gpus))
        self.context = self._context()
        self.corpus = self.tokens_in(self.text)
        self.shape, self.model, self.tokens = self._model()
        self.answer = self._answer()
        self.ranks = self._ranks()
        self.rate = RATES[self.shape]
        self._size_what_is_learned()

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return _parameters(self.model)

    def tokens_in(self, size: float) -> float:
        """Return about how many tokens so many bytes of text are."""
        return size / next(each for pieces, each in BYTES.items() if self.vocabulary <= pieces)

    def spoken(self, size: float) -> float:
        """Return about how many tokens a dialogue of so many bytes is, with the marks of its turns."""
        return self.tokens_in(size) / SPOKEN + 24

    def that_fit(self, part: Part) -> list[float]:
        """Return the tokens of dialogues or pairs, without those that are longer than the context."""
        sizes = (self.spoken(size) for file in part.files for size in file.shape.sizes)
        return [size for size in sizes if size <= self.context]

    def _context(self) -> int:
        lengths = [[size for file in part.files for size in file.shape.sizes] for part in self._spoken() if part.files]
        most = 2048 if self.machine.gpus else 512
        if not lengths:
            return min(most, 1024) if self.machine.gpus else 256
        needed = max(self.spoken(_quantile(sizes, 0.9)) for sizes in lengths)
        return min(most, next((size for size in CONTEXTS if size >= needed), most))

    def _spoken(self) -> list[Part]:
        return [self.parts[name] for name in ("dialogue", *KINDS)]

    def _model(self) -> tuple[str, ModelConfig, float]:
        """Return the largest shape that sees a token for each parameter in its minutes, and the tokens it sees."""
        shapes = list(RATES)
        if not self.machine.gpus:
            shapes = shapes[: shapes.index(LARGEST_ON_CPU) + 1]
        most = max(EPOCHS * self.corpus, min(MOST_EPOCHS * self.corpus, FEWEST_TOKENS))
        for shape in reversed(shapes):
            values = {**read_yaml(config_folder() / "model" / f"{shape}.yaml"), "max_seq_len": self.context}
            model = ModelConfig(**values).with_vocabulary(self.vocabulary)
            affordable = SHARES["pretrain"] * self.seconds / self._seconds_a_token(model)
            tokens = min(most, max(affordable, LEAST_TOKENS))
            if tokens >= _parameters(model):
                break
        return shape, model, tokens

    def _seconds_a_token(self, model: ModelConfig) -> float:
        """Return what a token takes, forward and backward, in a sequence of the context's length."""
        return flops_per_token(_parameters(model), model, self.context, attention=True) / self.machine.speed

    @property
    def learned(self) -> float:
        """The seconds of a token that is learned from."""
        return self._seconds_a_token(self.model)

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

    def _size_what_is_learned(self) -> None:
        """Choose batches and lengths."""
        gpu, prompts = bool(self.machine.gpus), self.parts["prompt"].rows
        longest = max(self.ranks * self.context, power(self.corpus / 2))
        most = min(longest, 2**19 if gpu else 2**14)
        self.batch_tokens = max(self.ranks * self.context, min(most, power(max(1024, self.tokens / 700))))
        self.steps = max(1, int(self.tokens / self.batch_tokens))
        rows = self.packed(self.parts["dialogue"])
        affordable = SHARES["sft"] * self.seconds / max(1e-9, rows * self.context * self.learned)
        self.sft_epochs = round(min(2.0, max(affordable, LEAST_UPDATES * self.ranks / max(1, rows))), 2)
        self.batch_sequences = self.batch(self.sft_epochs * rows / 100, 64 if gpu else 8)
        pairs = min((self.parts[kind].rows for kind in KINDS if self.parts[kind].rows), default=PAIRS_TO_RATE)
        self.batch_pairs = self.batch(pairs / 32, 64 if gpu else 16)
        # A response is written, read by two reward models, and in PPO by five models and learned from by two.
        read = self.pair_tokens() * 22 / 6 * self.learned
        self.rollouts = self.batch(prompts / 2, 256 if gpu else 64, of=2)
        iterations = SHARES["ppo"] * self.seconds / (self.rollouts * (self.written() + read))
        self.iterations = int(min(200 if gpu else 40, max(4, iterations)))
        sampled = SHARES["rejection_sampling"] * self.seconds / (SAMPLED * (self.written() + read / 4))
        self.prompts_tuned = int(min(prompts or PAIRS_TO_RATE, max(16, min(sampled, 2000 if gpu else 400))))
        best = 2 * self.prompts_tuned * self.pair_tokens() / self.context
        self.batch_best = min(self.batch_sequences, self.batch(best / 8, 64 if gpu else 8))

    @property
    def sft_steps(self) -> int:
        """How many updates fine-tuning has."""
        return max(1, int(self.sft_epochs * self.packed(self.parts["dialogue"]) / self.batch_sequences))

    def batch(self, most: float, limit: int, of: int = 1) -> int:
        """Return a global batch: a power of two up to `most` and `limit`, and a multiple of the ranks (times `of`)."""
        return max(self.ranks * of, min(limit, power(most)))

    def pair_tokens(self) -> float:
        """Return the tokens of a prompt with its response, on average."""
        fit = [size for part in self._spoken() for size in self.that_fit(part)]
        return fmean(fit) if fit else self.context / 2

    def written(self) -> float:
        """Return the seconds that writing a response takes."""
        at_once = 0.0004 * self.model.n_layers / (32 * self.machine.devices)  # a step of a batch of responses
        return self.answer * (at_once + 3 * self.parameters / self.machine.speed)

    # --- the time --------------------------------------------------------------------------------------------------

    def estimated(self) -> dict[str, float]:
        """Return program -> about how many seconds its stages take together."""
        found: defaultdict[str, float] = defaultdict(float)
        for stage in self.graph.stages.values():
            start = START if stage.program not in ("tokenizer", "corpus") else 2.0
            found[stage.program] += start + self._work(stage.program, str(stage.settings.get("kind", "")))
        return dict(found)

    def _work(self, program: str, kind: str) -> float:
        """Return the seconds of a program's own work, its start apart."""
        learned = self.learned
        pair, prompts = self.pair_tokens(), min(100, self.parts["prompt"].rows_held_out)
        scored = pair * learned * 2 / 3  # a response, by two reward models
        asked = [kind] if kind else KINDS
        pairs = fmean(self.parts[one].rows if kind else self.parts[one].rows_held_out for one in asked)
        share = (self.folds - 1) / self.folds if self.folds > 1 else 1.0
        match program:
            case "tokenizer" | "corpus":
                return self.text / 1e6 / self.machine.cores
            case "pretrain":
                return 1.2 * self.tokens * learned
            case "sft":
                return 1.2 * self.sft_steps * self.batch_sequences * self.context * learned
            case "compare":
                return 2 * PAIRS_TO_RATE * self.written()
            case "reward":
                return share * pairs * 2 * pair * learned
            case "reward.evaluate":
                return pairs * 2 * pair * learned / 3
            case "rejection_sampling":
                sampled = self.prompts_tuned * SAMPLED * (self.written() + scored)
                return sampled + STEPS * self.batch_best * self.context * learned
            case "ppo":
                return self.iterations * self.rollouts * (self.written() + pair * learned * 22 / 6)
            case "sample":
                return 2 * prompts * (self.written() + scored)
        return 0.0


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


def power(most: float) -> int:
    """Return the largest power of two up to `most`, at least 1."""
    return int(2 ** int(most).bit_length() // 2) if most >= 1 else 1


def size_of(size: float) -> str:
    """Write bytes of text for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _bytes(part: Part) -> float:
    """Return the bytes of text that are learned from."""
    rows = sum(file.shape.rows for file in part.files)
    return part.rows * sum(file.shape.size for file in part.files) / rows if rows else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _parameters(model: ModelConfig) -> int:
    assert model.vocab_size is not None
    return model.decoder_parameters + model.vocab_size * model.dim
