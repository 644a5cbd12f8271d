"""The plan that --dry-run prints: the paper's arithmetic for its four sizes, without a corpus and without writing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamatrain.config import program
from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.outlook import span
from pretrain.__main__ import dry_run, train
from pretrain.config import PretrainConfig

# preset, parameters (recipe: released shapes), ranks, GB a rank in bfloat16 at the preset's stage
SIZES = [
    ("llama2_7b", 6_738_415_616, 64, 8 * 6.738415616 + (12 * 6.738415616) / 64),
    ("llama2_13b", 13_015_864_320, 64, 26.03173 + (16 * 13.01586432) / 64),
    ("llama2_34b", 33_743_970_304, 256, 18 * 33.743970304 / 256),
    ("llama2_70b", 68_976_648_192, 256, 18 * 68.976648192 / 256),
]


def start(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        program.main("pretrain", PretrainConfig, train, list(arguments), plan=dry_run)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(("preset", "count", "ranks", "gigabytes"), SIZES)
def test_presets_print_their_plan(
    preset: str,
    count: int,
    ranks: int,
    gigabytes: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert start(f"preset={preset}", f"--dry-run={ranks}") == 0
    text = capsys.readouterr().out
    assert f"{count:,} parameters" in text and "vocabulary 32,000" in text
    assert "1,999,999,336,448 tokens = 476,837 steps of 4,194,304" in text
    micro = 1024 // ranks
    assert f"4,194,304 tokens = 1,024 rows of 4,096 = {ranks} ranks x {micro} accumulated micro-batches x 1 row" in text
    assert "2,000 steps of warm-up, then cosine to 10% of it" in text
    found = re.search(r"= ([\d.]+) GB <- zero.stage", text)
    assert found is not None and float(found[1]) == pytest.approx(gigabytes, rel=0.005)
    own = count if preset in ("llama2_7b", "llama2_13b") else -(-count // ranks)
    assert any(f"{own:,} parameters" in line for line in text.splitlines() if "<- zero.stage" in line)
    assert "the corpus does not exist yet" in text
    size = re.search(r"every 500 steps, 955 of ([\d.,]+) GB each, the first before step 1", text)
    assert size is not None and float(size[1]) == pytest.approx(14 * count / 1e9, rel=0.005)
    assert f"on {ranks} A100 ({ranks // 8} nodes of 8), at 35% to 43% of 312 TFLOP/s" in text
    # 6N, and a third more as these models recompute their activations, without padding.
    days = [6 * 4 / 3 * count * 476_837 * 4_194_304 / (share * 312e12) / 86400 / ranks for share in (0.43, 0.35)]
    assert f"{span((days[0], days[1]))} days in all" in text
    assert not list(tmp_path.iterdir())


def test_four_million_read_as_a_round_number_is_half_a_million_steps() -> None:
    paths = ["run.name=x", "corpus=c", "tokenizer=t"]
    cfg = compose("pretrain", PretrainConfig, [*paths, "batch_tokens=4000000", "seq_len=4000"])
    assert cfg.total_steps == 500_000
    assert "500,000 steps of 4,000,000" in dry_run(cfg, 8)


def test_kinds_add_up() -> None:
    cfg = compose("pretrain", PretrainConfig, ["run.name=x", "corpus=c", "tokenizer=t"])
    counts = cfg.model.parameters_by_kind
    assert counts["embedding"] == counts["head"] == 32000 * 4096
    assert counts["norm"] == 65 * 4096 and sum(counts.values()) == 6_738_415_616


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preset=llama2_7b", "--dry-run=many"], "--dry-run=many: need a number of ranks, like --dry-run=64"),
        (["preset=llama2_7b", "--dryrun"], "unknown option --dryrun: there are --help, --cfg job, --dry-run[=RANKS]"),
        (
            ["model=tiny", "batch_tokens=1024", "--dry-run"],
            "model.vocab_size=null and tokenizer=null: need one of them",
        ),
        (["preset=llama2_7b", "steps=3", "--dry-run"], "tokens=2000000000000.0 and steps=3: need exactly one of them"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(*arguments) == 2
    assert message in capsys.readouterr().err


def test_one_rank_and_no_peak_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("model=tiny", "model.vocab_size=1024", "batch_tokens=1024", "micro_batch_size=8", "--dry-run") == 0
    text = capsys.readouterr().out
    assert (
        "= 1 rank x 1 accumulated micro-batch x 8 rows" in text
        and "on 1 rank of " in text
        and "GFLOP/s per core" in text
    )
    assert "of 1 rank in float32" in text and "every 500 steps" in text


def test_only_programs_with_a_plan_know_the_flag() -> None:
    with pytest.raises(UserError, match=r"unknown option --dry-run: there are --help, --cfg job and --multirun"):
        program._dispatch("pretrain", PretrainConfig, train, ["--dry-run"], None)
