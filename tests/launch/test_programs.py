"""Every program's settings lie in its folder's config.py, which launch reads without starting anything heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launch.programs import PROGRAMS, schemas

HEAVY = {"torch", "deepspeed", "wandb", "datasets", "transformers"}


def test_every_program_of_a_stage_has_its_schema() -> None:
    own = {name for name, program in PROGRAMS.items() if program.module.startswith("launch.")}
    assert set(schemas()) == set(PROGRAMS) - own


def test_reading_all_schemas_imports_nothing_heavy(repository: Path) -> None:
    code = f"import sys; from launch.programs import schemas; schemas(); print({HEAVY!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
