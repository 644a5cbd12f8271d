"""Keys of earlier versions answer with their new names."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.programs import PROGRAMS
from llamatrain.config.compose import compose, compose_dict
from llamatrain.config.meanings import meanings
from llamatrain.config.renamed import ANY, KEYS, now_called, older
from llamatrain.errors import UserError
from rlhf.ppo_config import PPOConfig


def test_every_new_name_is_a_key_and_no_former_one_is() -> None:
    known = {program: meanings(program) for program in PROGRAMS}
    for program, names in KEYS.items():
        for former, new in names.items():
            having = [one for one, values in known.items() if new in values]
            assert having and program in (ANY, *having), (program, new)
            assert not [one for one in having if former in known[one] and program in (ANY, one)], former
    for program, values in known.items():
        assert older(program, values) == "", program


def test_seq_len_is_a_former_name_only_where_rows_are_packed() -> None:
    assert [now_called(program, "seq_len") for program in ("sft", "pretrain")] == ["max_length", None]
    assert older("sft", ["run", "seq_len"]) == "its seq_len is now called max_length"


@pytest.mark.parametrize("override", ["beta=0.1", "+beta=0.1", "preset=mine.yaml"])
def test_a_former_key_is_answered_with_the_new_one(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("ppo: [beta=0.2]\n")
    with pytest.raises(UserError, match=r"^unknown key 'beta' for llamatrain ppo: it is now called 'kl_coef'$"):
        compose("ppo", PPOConfig, [override], fill=True)


def test_a_program_without_the_new_key_has_no_former_one() -> None:
    with pytest.raises(
        UserError, match=r"'temperature' for llamatrain compare; the nearest is 'sampling.temperatures'"
    ):
        compose_dict("compare", ["temperature=1"])
