"""Start finished runs again on several ranks, many times, and count how the processes end: every exit code must be 0.

    python benchmarks/starts.py --starts 100 --ranks 2
    python benchmarks/starts.py --starts 100 --ranks 2 --forked --checkout ../another-checkout

A finished run that is started again loads its model, finds nothing to do and ends at once: what is held is the end of a
process with all its threads (gloo, autograd, wandb, pyarrow, DeepSpeed). The runs are made by the programs themselves, tiny.
Run it beside other work: an exit races with threads, and a busy machine makes races likelier. With `--forked` every
start is forked from a process that has imported everything: it begins sooner and ends alike.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from chain import RESULTS, ROOT, commit, machine

PROGRAMS = ("reward", "sft", "compare")
MODULES = {
    "compare": "rlhf.compare",
    "tokenizer": "pretrain.tokenizer",
    "corpus": "pretrain.corpus",
    "rate": "toyworld.rate",
}
IMPORTED = [
    *(f"llamatrain.{name}" for name in ("engine.learning", "fit", "run", "start", "checkpoint")),
    *(
        "deepspeed",
        "deepspeed.runtime.zero",
        "torch._dynamo",
        "wandb",
        "reward.scoring",
        "rlhf.learning",
        "llamatrain.responses.sampling",
    ),
]
PATIENCE = 600  # seconds for a start


def main() -> str | None:
    """Make the runs, start them again, record; in a forked child return the module that it is to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=100, help="of each program")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose programs are started")
    parser.add_argument("--dir", type=Path, default=Path("runs/starts"), help="folder of the runs")
    parser.add_argument("--forked", action="store_true", help="start without importing again")
    options = parser.parse_args()
    folder, checkout = options.dir.absolute(), options.checkout.absolute()
    for program in commands(folder):
        if status(folder, program) != "done":
            codes, output = start(checkout, folder, program, 1)
            assert codes == [0], f"{program}: {codes}\n{output}"
    if options.forked:
        import_everything(checkout)
    for program in options.programs:
        found: Counter[str] = Counter()
        for number in range(options.starts):
            ended = (fork if options.forked else start)(checkout, folder, program, options.ranks)
            if ended is None:
                return MODULES.get(program, program)
            codes, output = ended
            found[" ".join(map(str, codes))] += 1
            print(f"{program}, start {number + 1}: exit codes {codes}", output if any(codes) else "", flush=True)
        line = {
            "program": program,
            "ranks": options.ranks,
            "forked": options.forked,
            "exit_codes": dict(found),
            "load": round(os.getloadavg()[2], 1),  # processes that wanted a core, over the last 15 minutes
            "commit": commit(checkout),
            "machine": machine(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        with (RESULTS / "starts.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return None


def commands(folder: Path) -> dict[str, list[str]]:
    """Return program -> its overrides, in the order in which the runs are made."""
    chat = f"{folder}/sft/final"
    return {
        "toyworld": [
            "documents_mb=0.1",
            "documents_eval_mb=0.01",
            "dialogues=20",
            "dialogues_eval=4",
            "prompts=40",
            "prompts_eval=4",
        ],
        "tokenizer": [f"documents=[{folder}/toyworld/documents.jsonl]", "vocab_size=400"],
        "corpus": [
            *(f"documents=[{folder}/toyworld/documents.jsonl]", f"tokenizer={folder}/tokenizer"),
            f"eval_documents=[{folder}/toyworld/documents_eval.jsonl]",
        ],
        "pretrain": [
            *(f"corpus={folder}/corpus", f"tokenizer={folder}/tokenizer", "model=tiny", "tokens=null", "steps=2"),
            *("batch_tokens=1024", "micro_batch_size=1", "eval_sequences=2"),
        ],
        "sft": [
            *(f"checkpoint={folder}/pretrain/final", f"train=[{folder}/toyworld/dialogues.jsonl]", "epochs=1"),
            *("batch_sequences=4", "micro_batch_size=1"),
        ],
        "compare": [f"checkpoint_a={chat}", f"prompts=[{folder}/toyworld/prompts.jsonl]", "sampling.max_new_tokens=8"],
        "rate": [f"comparisons=[{folder}/compare/comparisons.jsonl]", f"world={folder}/toyworld"],
        "reward": [
            *(
                f"checkpoint={chat}",
                "kind=helpfulness",
                f"train=[{folder}/rate/preferences_helpfulness.jsonl]",
                "epochs=1",
                "batch_pairs=2",
            ),
            "micro_batch_size=1",
        ],
    }


def arguments(folder: Path, program: str, more: list[str] | None = None) -> list[str]:
    """Return the overrides of a program's run below `folder`."""
    return [*commands(folder)[program], *(more or []), f"run.dir={folder}", f"run.name={program}", "run.progress=false"]


def environments(ranks: int) -> list[dict[str, str]]:
    """Return what each rank's environment has beside ours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if ranks == 1:
        return [own]
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [own | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def start(
    checkout: Path, folder: Path, program: str, ranks: int, more: list[str] | None = None
) -> tuple[list[int], str]:
    """Run a program on so many ranks to its end; return their exit codes and what they said."""
    command = [sys.executable, "-m", MODULES.get(program, program), *arguments(folder, program, more)]
    with tempfile.TemporaryFile("w+") as log:
        running = [
            subprocess.Popen(
                command, cwd=checkout, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            for own in environments(ranks)
        ]
        deadline = time.monotonic() + PATIENCE
        try:
            codes = [process.wait(timeout=max(1, deadline - time.monotonic())) for process in running]
        finally:
            for process in running:
                process.kill()
        log.seek(0)
        return codes, log.read()


def import_everything(checkout: Path) -> None:
    """Import what the programs need, from a checkout. It has one thread afterwards, and may fork."""
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    os.environ |= {**environments(1)[0], "DS_ACCELERATOR": "cpu"}
    for name in IMPORTED:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1


def fork(checkout: Path, folder: Path, program: str, ranks: int) -> tuple[list[int], str] | None:
    """Do as `start`, in forked children; return None in a child, whose script then runs the program as its end."""
    log = os.memfd_create("log")
    children = []
    for own in environments(ranks):
        child = os.fork()
        if child == 0:
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ |= own
            sys.argv = [program, *arguments(folder, program)]
            return None
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.lseek(log, 0, os.SEEK_SET)
    with os.fdopen(log) as file:
        return codes, file.read()


def status(folder: Path, program: str) -> str:
    """Return the state in a run's status.json."""
    path = folder / program / "status.json"
    return str(json.loads(path.read_text())["state"]) if path.is_file() else ""


if __name__ == "__main__":
    module = main()
    if module is not None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
