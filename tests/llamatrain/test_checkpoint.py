"""A saved checkpoint opened by transformers: weights, reward model, tokenizer and chat template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llamatrain import checkpoint, hf_folder, linear, manifest, saving
from llamatrain.chat import encode_prompt
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.settings import OptimConfig, ZeroConfig
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint

transformers = pytest.importorskip("transformers")

OPTIM = OptimConfig(1e-2, [0.9, 0.95], 1e-5, 0.1, 1.0, "constant", 0, 0.0, 0.1)
ZERO = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)


def saved(folder: Path, model: Transformer | ScalarModel, tokenizer: Tokenizer) -> Path:
    """Save a model after one update, as a run would."""
    engine = Engine(model, OPTIM, ZERO, 10)
    engine.backward(engine(input_ids=torch.randint(3, 400, (2, 12))).square().mean())
    engine.step()
    saving.save(folder, {"model": engine}, tokenizer, {"step": 1}, {})
    return folder


def test_language_model(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    folder = saved(tmp_path / "step_1", Transformer(model_config, seed=1), tokenizer)
    ours, theirs = hf_folder.load_model(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(3, 400, (3, 17))
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-5)
    for layer in ours.model.layers:  # one product each, as in a model that was made here
        taken = layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj
        assert linear.side_by_side(tuple(part.weight for part in taken), 0) is not None
        assert linear.side_by_side((layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight), 0) is not None
    assert theirs.generation_config.temperature == 0.6
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where does the red fox live?"}]
    theirs_ids = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, return_dict=False)
    assert list(theirs_ids) == encode_prompt(messages, tokenizer)


def test_reward_model_on_a_ragged_batch(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    folder = saved(tmp_path / "step_1", ScalarModel(model_config, seed=1), tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.num_labels == 1
    lengths = [5, 12, 9]
    ids = torch.randint(3, 400, (3, 12))
    segments = (torch.arange(12)[None] < torch.tensor(lengths)[:, None]).long()
    ids = ids * segments  # padded with the id that config.json names
    with torch.no_grad():
        scores = hf_folder.load_model(folder)(ids, segment_ids=segments)
        expected = theirs(ids, attention_mask=segments).logits[:, 0]
    assert torch.allclose(scores[torch.arange(3), torch.tensor(lengths) - 1], expected, atol=1e-5)


def test_many_shards_read_alike(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved(tmp_path / "whole", Transformer(model_config, seed=1), tokenizer)
    monkeypatch.setattr(saving, "SHARD_BYTES", 60_000)
    torch.manual_seed(0)
    parts = saved(tmp_path / "parts", Transformer(model_config, seed=1), tokenizer)
    assert len(list(parts.glob("model-*-of-*.safetensors"))) > 2
    ids = torch.randint(3, 400, (1, 9))
    model = transformers.AutoModelForCausalLM.from_pretrained(parts)
    with torch.no_grad():
        assert torch.allclose(hf_folder.load_model(parts)(ids), model(ids).logits, atol=1e-5)
    assert {n for n, _ in hf_folder.load_weights(parts)} == {n for n, _ in hf_folder.load_weights(whole)}


def test_a_linked_checkpoint_that_is_saved_again_stays_where_it_was_moved(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    folder = saved(tmp_path / "step_1", Transformer(model_config, seed=1), tokenizer)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    saved(folder, Transformer(model_config, seed=2), tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {"step_1", "elsewhere"} and not folder.is_symlink()
    manifest.verify(folder)
    manifest.verify(tmp_path / "elsewhere")
    assert manifest.fingerprint(folder) != manifest.fingerprint(tmp_path / "elsewhere")


def test_a_foreign_folder_and_a_wrong_one(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    folder = saved(tmp_path / "step_1", Transformer(model_config, seed=1), tokenizer)
    foreign = tmp_path / "foreign"
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(foreign)  # no manifest of ours
    ids = torch.randint(3, 400, (1, 9))
    with torch.no_grad():
        assert torch.equal(hf_folder.load_model(foreign)(ids), hf_folder.load_model(folder)(ids))
    (folder / manifest.NAME).unlink()
    with pytest.raises(UserError, match=r"MANIFEST.json is missing"):
        checkpoint.resolve(folder)
    with pytest.raises(UserError, match=r"has no config.json$"):
        checkpoint.resolve(tmp_path)
    (tmp_path / "checkpoints").symlink_to(tmp_path)  # an interrupted run's folder
    with pytest.raises(UserError, match=r"the run is not finished, its newest checkpoint is .*/checkpoints/step_1$"):
        checkpoint.resolve(tmp_path)


def test_a_used_engine_goes_back(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    """What it restores leaves no trace of the steps it made, neither of moments nor of their absence."""
    batch = torch.randint(3, 400, (2, 12))

    def step(engine: Engine) -> None:
        engine.backward(engine(input_ids=batch).square().mean())
        engine.step()

    for stage in (0, 2):
        used = Engine(Transformer(model_config, seed=1), OPTIM, replace(ZERO, stage=stage), 10)
        folders = [tmp_path / f"{stage}_step_{done}" for done in (0, 1)]
        for folder in folders:
            saving.save(folder, {"model": used}, tokenizer, {}, {})
            step(used)
        for done, folder in enumerate(folders):
            fresh = Engine(Transformer(model_config, seed=7), OPTIM, replace(ZERO, stage=stage), 10)
            for engine in (used, fresh):
                checkpoint.restore(folder, {"model": engine})
                engine.state.set_step(done)
                step(engine)
            ours, theirs = dict(used.state.parameters_by_name()), dict(fresh.state.parameters_by_name())
            assert all(torch.equal(ours[name], theirs[name]) for name in ours), (stage, done)


def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    folder = saved(tmp_path / "step_1", Transformer(model_config, seed=1), tokenizer)
    deeper = replace(model_config, n_layers=3)
    with pytest.raises(UserError, match=r"step_1: weight model\.layers\.2\..* is missing"):
        checkpoint.restore(folder, {"model": Engine(Transformer(deeper, seed=1), OPTIM, ZERO, 10)})


def test_a_file_that_another_rank_wrote_elsewhere(tmp_path: Path) -> None:
    entry = {"size": 3, "sha256": manifest.sha256(Path(__file__))}
    with pytest.raises(OSError, match=r"rank 0 does not see model\.safetensors .* need one run folder for all ranks"):
        manifest.write(tmp_path, {"model.safetensors": entry})


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "[]", "config.json is damaged: it is [], need an object"),
        ("config.json", '{"architectures": "Llama"}', "config.json is damaged: architectures is 'Llama', need a list"),
        ("config.json", '{"model_type": "llama"}', "config.json: vocab_size is missing"),
        ("model.safetensors.index.json", "{}", "index.json is damaged: weight_map is missing"),
        ("model.safetensors.index.json", '{"weight_map": null}', "weight_map is None, need an object"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "weight_map.a is 3, need a text"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "weight lm_head.weight is missing"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}', "../x is missing"),
        ("model.safetensors", "", "model.safetensors cannot be read"),
    ],
)
def test_a_foreign_folder_with_a_mistake(
    file: str, content: str, says: str, tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    folder = save_checkpoint(tmp_path / "foreign", Transformer(model_config, seed=1), tokenizer)
    (folder / manifest.NAME).unlink()
    (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        hf_folder.load_model(checkpoint.resolve(folder))
    assert str(folder) in str(error.value) and says in str(error.value)


def test_a_config_of_a_larger_model_than_the_weights(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """Found before a model of that size is made."""
    model = Transformer(model_config, seed=1)
    assert model_config.decoder_parameters == sum(p.numel() for p in model.model.parameters())
    folder = save_checkpoint(tmp_path / "foreign", model, tokenizer)
    larger = replace(model_config, n_layers=9_999)
    (folder / "config.json").write_text(json.dumps(larger.to_hf(scalar_head=False)))
    with pytest.raises(UserError, match=r"config\.json describes 92,\d+,\d+ parameters, but the weights .* bytes"):
        hf_folder.load_config(folder)


def test_only_safetensors_are_read(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    folder = save_checkpoint(tmp_path / "foreign", Transformer(model_config, seed=1), tokenizer)
    (folder / manifest.NAME).unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"foreign has pytorch_model\.bin but no model\.safetensors: need safetensors"):
        hf_folder.load_model(folder)
    with pytest.raises(UserError, match=r"a name on the hub\? `hf download meta-llama/Llama-2-7b-hf"):
        checkpoint.resolve("meta-llama/Llama-2-7b-hf")


def test_a_manifest_that_is_silent_about_the_weights(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    folder = save_checkpoint(tmp_path / "x", Transformer(model_config, seed=1), tokenizer)
    for content, says in {
        '{"files": {}}': "is not in its MANIFEST.json",
        '{"files": []}': "MANIFEST.json is damaged: files is \\[\\], need an object; the checkpoint was altered",
        '{"files": {"config.json": 3}}': "files.config.json is 3, need an object",
    }.items():
        (folder / manifest.NAME).write_text(content)
        with pytest.raises(UserError, match=says):
            checkpoint.resolve(folder)


def test_optimizer_files_that_are_gone(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Also where the manifest was written anew without them: the run would go on with other weights."""
    folder = saved(tmp_path / "step_1", Transformer(model_config, seed=1), tokenizer)
    for path in (folder / "trainer" / "model").glob("optimizer-*"):
        path.unlink()
    with pytest.raises(UserError, match="lacks files of the optimizer state"):
        checkpoint.restore(folder, {"model": Engine(Transformer(model_config, seed=1), OPTIM, ZERO, 10)})
