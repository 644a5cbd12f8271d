"""Start fine-tuning on many dialogues, twice: seconds to the first step, and the memory that all ranks take together.

    python benchmarks/dialogues.py
    python benchmarks/dialogues.py --count 50000 --checkout ../another-checkout

The dialogues are of random words of the toy world, by a seed; the model is tiny, so that what is measured is reading.
The first start tokenizes, the second finds the tokens; both are killed after their first step. Memory is the largest sum
of the processes' proportional set sizes (a page that several share counts once) and of their resident ones. A line goes
to results/dialogues.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from chain import RESULTS, ROOT, commit, machine
from starts import environments, start, status

PATIENCE = 3600  # seconds for a start
MODEL = ["vocab_size=1024"], ["model.max_seq_len=512", "seq_len=256"]  # of the tokenizer, of pretraining
WORD = re.compile(r"[a-z]+")


def main() -> int:
    """Make a model and dialogues, start twice, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500_000, help="dialogues")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose programs are started")
    parser.add_argument("--dir", type=Path, default=Path("runs/dialogues"), help="folder of the runs")
    options = parser.parse_args()
    folder, checkout = options.dir.absolute(), options.checkout.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_model(checkout, folder)
    rows = folder / f"dialogues_{options.count}_{options.seed}.jsonl"
    if not rows.exists():
        write(rows, folder / "toyworld" / "documents.jsonl", options.count, options.seed)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    line = {
        "dialogues": options.count,
        "megabytes": round(rows.stat().st_size / 1e6),
        "ranks": options.ranks,
        "first": measure(checkout, folder, rows, options.ranks),
        "second": measure(checkout, folder, rows, options.ranks),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(checkout),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(line, indent=1))
    with (RESULTS / "dialogues.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return 0


def make_model(checkout: Path, folder: Path) -> None:
    """Make a toy world's tokenizer and base model where they are not there."""
    more = {"tokenizer": MODEL[0], "pretrain": MODEL[1]}
    for program in ("toyworld", "tokenizer", "corpus", "pretrain"):
        if status(folder, program) != "done":
            codes, output = start(checkout, folder, program, 1, more.get(program))
            assert codes == [0], f"{program}: {codes}\n{output}"


def write(path: Path, documents: Path, count: int, seed: int) -> None:
    """Write dialogues of one to three turns of random words."""
    words = sorted(set(WORD.findall(documents.read_text())))
    rng = random.Random(seed)

    def said(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": f"{' '.join(rng.choices(words, k=rng.randint(4, most)))}."}

    with path.with_suffix(".part").open("w") as file:
        for _ in range(count):
            turns = [message for _ in range(rng.randint(1, 3)) for message in (said("user", 20), said("assistant", 40))]
            file.write(json.dumps({"messages": turns}) + "\n")
    path.with_suffix(".part").rename(path)


def measure(checkout: Path, folder: Path, rows: Path, ranks: int) -> dict[str, float]:
    """Start fine-tuning; return seconds to its first step, and gigabytes of its ranks and of processes that they start."""
    shutil.rmtree(folder / "sft", ignore_errors=True)
    command = [sys.executable, "-m", "sft", f"checkpoint={folder}/pretrain/final", f"train=[{rows}]", "epochs=1"]
    command += ["batch_sequences=16", "micro_batch_size=8", "run.log_every=1", f"run.dir={folder}", "run.name=sft"]
    began = time.monotonic()
    with (folder / "sft.log").open("w") as log:
        running = [
            subprocess.Popen(command, cwd=checkout, env=os.environ | own, stdout=log, stderr=log)
            for own in environments(ranks)
        ]
        most: dict[str, float] = {}
        metrics = folder / "sft" / "metrics.jsonl"
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                assert all(process.poll() is None for process in running), (folder / "sft.log").read_text()
                assert time.monotonic() - began < PATIENCE
                own = [process.pid for process in running]
                for name, pids in (("ranks", own), ("others", [pid for one in own for pid in children(one)])):
                    for kind in ("Pss", "Rss"):
                        key = f"{name}_{kind.lower()}_gb"
                        most[key] = max(most.get(key, 0.0), sum(memory(pid, kind) for pid in pids))
                time.sleep(0.1)
            seconds = time.monotonic() - began
        finally:
            for process in running:
                process.kill()
                process.wait()
    return {"seconds": round(seconds, 1), **{key: round(value, 2) for key, value in most.items()}}


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def memory(pid: int, kind: str) -> float:
    """Return the gigabytes of a process; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(rf"^{kind}:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
