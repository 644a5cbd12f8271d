"""The program evaluate, from files to evaluation.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from evaluation.__main__ import evaluate, is_base
from evaluation.config import EvaluateConfig
from evaluation.measures import logit
from evaluation.perplexity import mean_loss, perplexity
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.data.sequences import TokenBatches
from llamatrain.data.shards import read_manifest
from llamatrain.errors import MissingFileError, UserError
from llamatrain.inputs import fingerprints
from llamatrain.losses import text_measures
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet, read_jsonl, save_checkpoint
from tests.conftest import TEXT
from tests.corpora import write_corpus

from .test_measures import judgement, response, written


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A folder of the program corpus with held-out documents."""
    write_rows(tmp_path / "text.jsonl", [{"text": line, "source": "test"} for line in TEXT.splitlines()])
    write_corpus(tmp_path / "corpus" / "eval", [str(tmp_path / "text.jsonl")], tokenizer)
    return tmp_path / "corpus"


def configure(folder: Path, *more: str) -> EvaluateConfig:
    return compose("evaluate", EvaluateConfig, [*quiet(folder, "evaluation"), *more])


def test_mean_loss_is_that_of_every_token(corpus: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    model = Transformer(model_config, seed=0)
    batches = TokenBatches(corpus / "eval", seq_len=128, batch_size=2, micro_batch_size=2, seed=0)
    tokens = torch.from_numpy(batches.streams[0].read(0, len(batches.streams[0])).astype("int64"))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 127):
            sequence = tokens[start : start + 128]
            logprobs = model(sequence[None])[0].log_softmax(-1)
            total -= float(logprobs[:-1].gather(1, sequence[1:, None]).sum())
    loss = mean_loss(model, batches.eval_batches())
    assert loss == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    manifest = read_manifest(corpus / "eval")
    targets = sum(map(batches.targets, batches.sources))
    assert text_measures(loss, targets, manifest.text_bytes)["bits_per_byte"] == pytest.approx(
        total / math.log(2) / len(TEXT.replace("\n", "")), rel=1e-5
    )


def test_a_limit_measures_every_source(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    model = save_checkpoint(tmp_path / "base", Transformer(model_config, seed=0), tokenizer)
    for name, text in (("tales", TEXT), ("numbers", "\n".join(f"{i} and {i + 1}" for i in range(200)))):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": line, "source": name} for line in text.splitlines()])

    def measured(*names: str) -> dict[str, float]:
        sources = {name: str(tmp_path / f"{name}.jsonl") for name in names}
        folder = tmp_path / "-".join(names)
        write_corpus(folder, sources, tokenizer)
        return perplexity(model, folder, 2, isolate=False, limit=1, dtype=torch.float32)

    # Whichever comes first: a limit on all sequences together would read that one alone.
    assert measured("tales", "numbers") == pytest.approx(measured("numbers", "tales"), rel=1e-6)


def test_evaluates_everything_there_is(
    tmp_path: Path, corpus: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    base = save_checkpoint(tmp_path / "base", Transformer(model_config, seed=0), tokenizer)
    responses = written(tmp_path / "r.jsonl", [response(f"h{i}", 0.1 * i, 0.5) for i in range(4)])
    better = written(tmp_path / "b.jsonl", [response(f"h{i}", 0.1 * i + 0.1, 0.5) for i in range(4)])
    judgements = written(tmp_path / "j.jsonl", [judgement(f"h{i}", 0.5, 1.0) for i in range(4)])
    models = f"base: {{checkpoint: {base}}}, sft: {{responses: {responses}}}"
    models = f"models={{{models}, ppo: {{responses: {better}, judgements: {judgements}}}}}"
    evaluate(configure(tmp_path, models, f"corpus={corpus}"))
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert list(found["models"]) == ["base", "sft", "ppo"]
    assert found["models"]["base"]["perplexity"] == pytest.approx(400, rel=0.2)
    assert found["models"]["ppo"]["helpfulness"]["mean"] == 0.5
    rows = {row["metric"]: row for row in found["comparisons"]}
    assert set(rows) == {"score_helpfulness", "score_safety", "score_combined"}
    gains = [logit(0.1 * i + 0.1) - logit(0.1 * i) for i in range(4)]
    assert rows["score_helpfulness"]["difference"] == pytest.approx(sum(gains) / 4)
    assert (rows["score_helpfulness"]["win_rate"], rows["score_safety"]["ties"]) == (1.0, 4)
    logged = read_jsonl(tmp_path / "evaluation" / "metrics.jsonl")[0]
    assert logged["ppo/score_helpfulness_over_sft"] == pytest.approx(sum(gains) / 4)
    written(tmp_path / "j.jsonl", [judgement(f"h{i}", 0.6, 1.0) for i in range(4)])
    with pytest.raises(
        UserError, match=r"what 'models\.ppo\.judgements' names changed since .*evaluation was finished"
    ):
        evaluate(configure(tmp_path, models, f"corpus={corpus}"))
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == found


def test_a_run_folder_stands_for_its_file(tmp_path: Path) -> None:
    written(tmp_path / "responses.jsonl", [response("h0", 0.1, 0.5)])
    written(tmp_path / "judgements.jsonl", [judgement("h0", 0.5, 1.0)])

    def read(responses: Path, judgements: Path) -> dict[str, str]:
        return fingerprints(configure(tmp_path, f"models={{a: {{responses: {responses}, judgements: {judgements}}}}}"))

    files = read(tmp_path / "responses.jsonl", tmp_path / "judgements.jsonl")
    assert len(files) == 2 and read(tmp_path, tmp_path) == files


def test_bad_rows_are_left_out_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `judge` skipped, too: of the others responses and judgements are still each other's."""
    rows = [response(f"h{number}", 0.1, 0.5) for number in range(4)]
    path = written(tmp_path / "responses.jsonl", [*rows[:2], {**rows[2], "seed": "none"}, rows[3]])
    judged = written(tmp_path / "judgements.jsonl", [judgement(f"h{number}", 0.5, 1.0) for number in (0, 1, 3)])
    models = f"models={{a: {{responses: {path}, judgements: {judged}}}}}"
    with pytest.raises(UserError, match=r"responses\.jsonl:3: field 'seed'.*; bad_rows=skip skips such rows$"):
        evaluate(configure(tmp_path, models))
    evaluate(configure(tmp_path, models, "bad_rows=skip", "run.progress=true"))
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["prompts"] == 3
    assert "warning: 1 of 7 rows skipped, as they cannot be used:" in capsys.readouterr().err
    written(tmp_path / "judgements.jsonl", [{"prompt_id": "h0"}])
    with pytest.raises(UserError, match="holds no judgement rows, need at least one"):
        evaluate(configure(tmp_path, models, "bad_rows=skip", "run.name=other"))


def test_a_pretrained_model_is_not_compared_by_scores(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    folder = save_checkpoint(tmp_path / "made", Transformer(model_config, seed=0), tokenizer)
    assert not is_base(None) and not is_base(str(folder))
    for program in ("sft", "pretrain"):
        (folder / "llamatrain.json").write_text(
            json.dumps({"program": program, "step": 1, "config": {}, "parents": {}, "data": {}})
        )
        assert is_base(str(folder)) == (program == "pretrain")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "need a value for models"),
        (["models={a: {}}"], r"models\.a: need responses, judgements, recall, or a checkpoint and corpus"),
        (["models={a: {responses: r}}", "baseline=b"], "baseline=b: need one of a"),
        (["models={a: {responses: r}}", "corpus=c"], "corpus=c: need a checkpoint"),
        (["models={a: {answers: r}}"], r"unknown key 'models\.a\.answers'"),
        (["models={a: {responses: r}}", "dtype=int8"], "dtype=int8: need one of float32, bfloat16"),
        (["models={a: {responses: r}}", "tie=-1"], r"tie=-1\.0: need 0 or more"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configure(tmp_path, *overrides)


def test_files_that_do_not_fit_are_named(
    tmp_path: Path, corpus: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.jsonl does not exist"):
        evaluate(configure(tmp_path, "models={a: {responses: nowhere.jsonl}}"))
    reward = save_checkpoint(tmp_path / "reward", ScalarModel(model_config, seed=0), tokenizer)
    with pytest.raises(UserError, match="need a language model for perplexity"):
        evaluate(configure(tmp_path, f"models={{a: {{checkpoint: {reward}}}}}", f"corpus={corpus}"))
