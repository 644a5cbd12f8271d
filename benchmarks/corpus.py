"""The corpus program on generated toy text and real text, with planted faults, kills and a plain loop to compare with.

    python benchmarks/corpus.py --gigabytes 1 --data ../data

Generates the text (kept in the folder for the next time), plants exact and near duplicates, sites with personal data
and evaluation text, runs the program, runs it again with two kills, checks every removal with sets of words and that no two kept
documents are equal, and adds a line to results/corpus.jsonl. `--data` names the folder of the preset fairytales, for real stories and dialogues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from chain import RESULTS, ROOT, commit, machine

sys.path.insert(0, str(ROOT))

SIMILARITY, SHINGLE = 0.8, 5
REAL = {  # below --data, as documents
    "stories": "fairytale_stories:fairytales/stories.train.jsonl",
    "questions": "fairytale_questions:fairytales/questions.train.jsonl.gz",
    "stories_val": "fairytale_stories:fairytales/stories.val.jsonl",
    "questions_val": "fairytale_questions:fairytales/questions.val.jsonl.gz",
    "threads": "oasst:oasst/en_100_tree.jsonl",
    "helpful": "hh_rlhf:hh-rlhf/helpful-base.jsonl.gz",
    "harmless": "hh_rlhf:hh-rlhf/harmless-base.jsonl.gz",
}
WORDS = (
    "amber basket candle dragon ember feather garden harbour island jacket kettle lantern meadow needle orchard pepper"
)
PLANTS = 500  # of each kind
BUCKETS = 64  # of kept documents' hashes, of which one is in memory


def main() -> int:
    """Generate, run, kill, check, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--data", type=Path, help="folder of the preset fairytales' files")
    parser.add_argument("--folder", type=Path, default=Path("runs/corpus-benchmark"))
    parser.add_argument(
        "--plain-megabytes", type=float, default=20.0, help="text of the plain loop; it holds all of it"
    )
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--check-share", type=float, default=1.0, help="share of the removals that are verified")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    folder = options.folder / f"{options.gigabytes:g}GB"
    folder.mkdir(parents=True, exist_ok=True)
    mixture, planted = prepare(folder, options.gigabytes, options.data)
    common = [f"mixture={mixture}", f"tokenizer={folder / 'tokenizer'}", "num_workers=2", f"run.dir={folder}"]
    shutil.rmtree(folder / "whole", ignore_errors=True)
    line: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "command": f"python benchmarks/corpus.py --gigabytes {options.gigabytes:g}{' --data ../data' * bool(options.data)}",
        **run(common, "whole"),
    }
    line["contamination"] = contamination(folder)
    line["planted"] = check_planted(folder / "whole", planted)
    line["removals"] = check_removals(folder / "whole" / "report" / "removed.jsonl", options.check_share)
    line["kept"] = check_kept(folder)
    line["plain"] = plain(folder, options.plain_megabytes)
    line["times_plain"] = round(line["megabytes_per_second"] / line["plain"]["megabytes_per_second"], 2)
    if options.kills:
        line["killed"] = run_with_kills(common, folder, options.kills, line["seconds"])
        line["killed"]["same"] = result_hash(folder / "killed") == result_hash(folder / "whole")
    print(json.dumps(line, indent=1))
    if not options.no_record:
        with (RESULTS / "corpus.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    right = not any((line["removals"]["below"], line["removals"]["other_value"], line["kept"]["equal"]))
    fine = all(line["planted"].values()) and right and line.get("killed", {}).get("same", True)
    return 0 if fine else 1


# --- text --------------------------------------------------------------------------------------------------------


def program(*arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a program of the project."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    return subprocess.Popen([sys.executable, "-m", *arguments, "run.wandb.mode=disabled"], env=environment, **settings)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program, which must end well."""
    if process.wait():
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def prepare(folder: Path, gigabytes: float, data: Path | None) -> tuple[Path, dict[str, Any]]:
    """Write the text of all sources, the tokenizer, the mixture and the plants; return the mixture and what is planted."""
    mixture, plants = folder / "mixture.yaml", folder / "planted.json"
    worlds = [f"toyworld{seed}" for seed in (1, 2)]  # two sources, from two worlds
    if not plants.is_file():
        started = [
            program("toyworld", f"seed={seed}", f"run.dir={folder}", f"run.name=toyworld{seed}", "dialogues=100",
                    "prompts=100", f"documents_mb={gigabytes * 500}", "run.progress=false")
            for seed in (1, 2)
        ]  # fmt: skip
        for process in started:
            finish(process)
        world = folder / worlds[0] / "documents.jsonl"
        with (folder / "sample.jsonl").open("w") as file:
            file.writelines(row for number, row in zip(range(40_000), world.open(), strict=False))
        finish(program("pretrain.tokenizer", f"documents=[{folder / 'sample.jsonl'}]", f"run.dir={folder}",
                       "run.name=tokenizer", "vocab_size=2048", "run.progress=false"))  # fmt: skip
        planted = plant(folder, [folder / name / "documents.jsonl" for name in worlds])
        plants.write_text(json.dumps(planted))
    sources = {name: {"paths": [str(folder / name / "documents.jsonl")], "epochs": 1.0} for name in worlds}
    sources["toyworld1"]["eval"] = [str(folder / "toyworld1" / "documents_eval.jsonl")]
    sources["web"] = {"paths": [str(folder / "web.jsonl")], "epochs": 2.0}
    for name, spelled in REAL.items() if data else ():
        adapter, path = spelled.split(":")
        sources[name] = {"paths": [f"{adapter}:{(data or Path()).resolve() / path}"], "epochs": 1.0}
    for entry in sources.values():
        entry["licence"] = "see its origin"
    mixture.write_text(json.dumps(sources))
    return mixture, json.loads(plants.read_text())


def plant(folder: Path, worlds: list[Path]) -> dict[str, Any]:
    """Write web.jsonl, the source in which everything is planted, and a set for contamination."""
    rng = random.Random(0)
    words = WORDS.split() + [f"{word}{ending}" for word in WORDS.split() for ending in ("s", "ed", "ly", "er")]

    def story(count: int = 80) -> str:
        return " ".join(rng.choices(words, k=count))

    rows: list[dict[str, Any]] = []
    planted: dict[str, Any] = {"exact": [], "near": [], "sites": [], "fine_sites": []}
    for number in range(PLANTS):
        text = story()
        altered = text.split()
        altered[40] = "unlike"  # 71 of 81 shingles stay
        rows.append({"text": text, "url": f"https://fine{number % 20}.example/a"})
        rows.append({"text": text.upper() + "\n", "url": f"https://fine{number % 20}.example/b"})
        planted["exact"].append(len(rows))
        rows.append({"text": " ".join(altered), "url": f"https://fine{number % 20}.example/c"})
        planted["near"].append(len(rows))
    for site in range(20):
        planted["sites"].append(f"people{site}.example")
        for _ in range(25):
            told = f"{rng.choice(words)}{rng.randrange(999)}@mail.example, +49 30 {rng.randrange(10**6, 10**7)}"
            rows.append({"text": f"{story(30)} {told}. {story(10)}", "url": f"http://www.people{site}.example/"})
    with worlds[0].open() as file:  # text of another source, and sites with a few addresses, which stay
        for number, line in zip(range(PLANTS), file, strict=False):
            rows.append({"text": json.loads(line)["text"] + (" Ask me@site.example." * (number % 50 == 0)) + " " + story(40),
                         "url": f"https://mild{number % 10}.example/"})  # fmt: skip
    with (folder / "web.jsonl").open("w") as out:
        out.writelines(json.dumps({"source": "web", **row}) + "\n" for row in rows)
    samples = [{"text": rows[3 * number]["text"], "kind": "whole"} for number in range(100)]
    samples += [
        {"text": f"{' '.join(rows[3 * n]['text'].split()[:40])} {story(40)}", "kind": "half"} for n in range(100)
    ]
    samples += [{"text": story(), "kind": "fresh"} for _ in range(100)]
    with (folder / "evaluation.jsonl").open("w") as out:
        out.writelines(json.dumps(sample) + "\n" for sample in samples)
    return planted


# --- runs --------------------------------------------------------------------------------------------------------


def memory(root: int) -> int:
    """Return the memory of a process and all below it, in bytes: shared pages once (PSS)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, left = 0, [root]
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total


class Watch:
    """The highest memory of a process and those below it while it runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.peak = process, 0
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.peak = max(self.peak, memory(self.process.pid))
            time.sleep(0.25)


def run(common: list[str], name: str) -> dict[str, Any]:
    """Run the program; return its speed and memory."""
    started = time.monotonic()
    process = program("pretrain.corpus", *common, f"run.name={name}")
    watch = Watch(process)
    finish(process)
    folder = Path(next(o.split("=", 1)[1] for o in common if o.startswith("run.dir="))) / name
    report = json.loads((folder / "report" / "report.json").read_text())
    size = sum(row["read_bytes"] for row in report["sources"])
    counts = Counter[str]()
    for row in report["sources"]:
        lost = ("kept", "bad_rows", "empty", "short", "language", "site", "exact", "near")
        assert row["rows"] == sum(row[why] for why in lost), row
        counts.update({why: row[why] for why in ("rows", *lost)})
    seconds = time.monotonic() - started  # from the start of the process
    return {
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
        "tokens_per_second": round(sum(row["tokens"] for row in report["sources"]) / seconds),
        "peak_gigabytes": round(watch.peak / 1e9, 3),
        "steps": report["steps"],
        "documents": dict(counts),
    }


def run_with_kills(common: list[str], folder: Path, kills: int, seconds: float) -> dict[str, Any]:
    """Kill the program some times (-9, with all it started left to themselves), then let it finish."""
    shutil.rmtree(folder / "killed", ignore_errors=True)
    steps = []
    started = time.monotonic()
    for number in range(kills):
        process = program("pretrain.corpus", *common, "run.name=killed", start_new_session=True)
        time.sleep(seconds * (number + 0.5) / (kills + 0.5))
        begun = sorted((folder / "killed" / "work").glob("*/"), key=lambda path: path.stat().st_mtime)
        steps.append(begun[-1].name if begun else "start")
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(program("pretrain.corpus", *common, "run.name=killed"))
    return {"kills": kills, "in": steps, "seconds": round(time.monotonic() - started, 1)}


def result_hash(folder: Path) -> str:
    """Return one hash of all that a run made, but for times."""
    digest = hashlib.sha256()
    lists = [folder / "report" / name for name in ("removed.jsonl", "dropped_sites.jsonl", "data_card.json")]
    for path in [*sorted(p for part in ("train", "eval") for p in (folder / part).rglob("*") if p.is_file()), *lists]:
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def contamination(folder: Path) -> dict[str, Any]:
    """Look for the planted evaluation text."""
    sets = f"sets={{planted:{{path:{folder / 'evaluation.jsonl'}}}}}"
    shutil.rmtree(folder / "found", ignore_errors=True)
    started = time.monotonic()
    finish(program("pretrain.corpus.contamination", f"corpus={folder / 'whole'}", f"tokenizer={folder / 'tokenizer'}",
                   sets, f"run.dir={folder}", "run.name=found"))  # fmt: skip
    rows = [json.loads(line) for line in (folder / "found" / "samples.jsonl").read_text().splitlines()]
    means = {
        kind: sum(row["50"] for row in rows[i : i + 100]) / 100
        for kind, i in (("whole", 0), ("half", 100), ("fresh", 200))
    }
    return {"seconds": round(time.monotonic() - started, 1), **{kind: round(mean, 3) for kind, mean in means.items()}}


# --- checks ------------------------------------------------------------------------------------------------------


def check_planted(folder: Path, planted: dict[str, Any]) -> dict[str, bool]:
    """Tell whether all that was planted was found, and no site beside."""
    removed: dict[int, str] = {}
    with (folder / "report" / "removed.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            name, _, number = row["document"].rpartition(":")
            if name.endswith("/web.jsonl"):
                removed[int(number)] = row["why"]
    sites = {json.loads(line)["host"] for line in (folder / "report" / "dropped_sites.jsonl").read_text().splitlines()}
    found = json.loads((folder.parent / "found" / "contamination.json").read_text())["planted"]["lengths"]["50"][
        "subsets"
    ]
    return {
        "exact": all(removed.get(number) == "exact" for number in planted["exact"]),
        "near": all(removed.get(number) == "near" for number in planted["near"]),
        "sites": sites == set(planted["sites"]),
        "contamination": found["dirty"]["n"] == found["clean"]["n"] == 100,
    }


def check_removals(path: Path, share: float) -> dict[str, Any]:
    """Compare every removed document with the one kept for it, word by word, without the program's own code."""
    rng = random.Random(0)
    with path.open() as file:
        rows = [json.loads(line) for line in file if share >= 1 or rng.random() < share]
    wanted: dict[str, set[int]] = {}
    for row in rows:
        for end in ("document", "kept"):
            name, _, number = row[end].rpartition(":")
            wanted.setdefault(name, set()).add(int(number))
    texts: dict[str, str] = {}
    for name, numbers in wanted.items():
        for number, text in documents(name):
            if number in numbers:
                texts[f"{name}:{number}"] = text
    gone = {row["document"] for row in rows}
    below = wrong = kept_is_gone = 0
    for row in rows:
        similarity = jaccard(texts[row["document"]], texts[row["kept"]])
        below += similarity < SIMILARITY
        wrong += abs(similarity - row["similarity"]) > 1e-5
        kept_is_gone += row["kept"] in gone
    return {"checked": len(rows), "below": below + kept_is_gone, "other_value": wrong}


def check_kept(folder: Path) -> dict[str, int]:
    """Count kept training documents whose text, case and white space aside, another or a held-out one has."""
    import numpy as np

    home = folder / "hashes"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for part in ("eval", "train"):
        files = [(home / f"{part}{bucket}").open("wb") for bucket in range(BUCKETS)]
        for text in published(folder / "whole" / part, folder / "tokenizer" / "tokenizer.model"):
            digest = hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=9).digest()
            files[digest[8] % BUCKETS].write(digest[:8])
        for file in files:
            file.close()
    count = equal = 0
    for bucket in range(BUCKETS):
        held_out, train = (np.fromfile(home / f"{part}{bucket}", np.uint64) for part in ("eval", "train"))
        count += len(train)
        equal += len(train) - len(np.setdiff1d(train, held_out))
    shutil.rmtree(home)
    return {"documents": count, "equal": equal}


def published(part: Path, model: Path) -> Iterator[str]:
    """Yield the documents of a corpus part, decoded from its shards."""
    import numpy as np
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    dtype = json.loads((part / "manifest.json").read_text())["dtype"]
    for path in sorted(part.glob("*/*.tokens")):
        tokens, starts = np.memmap(path, dtype, "r"), np.fromfile(path.with_suffix(".documents"), np.int64)
        for first in range(0, len(starts) - 1, 4096):
            ends = starts[first : first + 4097].tolist()
            yield from tokenizer.decode([tokens[a + 1 : b - 1].tolist() for a, b in pairwise(ends)])


def documents(name: str) -> Iterator[tuple[int, str]]:
    """Yield the documents of a file with their line numbers."""
    from llamatrain.data.kinds import DocumentRow
    from llamatrain.data.rows import Part, read_part

    adapter = next((spelled.split(":")[0] for spelled in REAL.values() if name.endswith(spelled.split(":")[1])), None)
    if adapter is not None:
        yield from ((n, row["text"]) for n, row in read_part(Part(f"{adapter}:{name}"), DocumentRow))
        return
    with Path(name).open() as file:
        for number, line in enumerate(file, 1):
            yield number, json.loads(line)["text"]


def grams(text: str) -> set[tuple[str, ...]]:
    """Return a text's word n-grams."""
    words = text.lower().split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def jaccard(one: str, other: str) -> float:
    """Return the share of word n-grams that two texts have in common."""
    left, right = grams(one), grams(other)
    return len(left & right) / len(left | right)


# --- the plain loop ----------------------------------------------------------------------------------------------


def plain(folder: Path, megabytes: float) -> dict[str, Any]:
    """Do the same steps in one process and one loop, as one would write them at first; return its speed."""
    import numpy as np
    import sentencepiece
    from rensa import RMinHash

    from pretrain.corpus.cleaning import clean
    from pretrain.corpus.config import Cleaning

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "tokenizer.model"))
    settings = Cleaning(True, True, True, 0.0, 1000, 1)
    seen: set[bytes] = set()
    bands: list[dict[tuple[int, ...], list[set[tuple[str, ...]]]]] = [{} for _ in range(16)]
    size = 0
    started = time.monotonic()
    with (folder / "toyworld1" / "documents.jsonl").open() as file, (folder / "plain.tokens").open("wb") as out:
        for line in file:
            text = clean(json.loads(line)["text"], settings, Counter())
            size += len(text.encode())
            key = hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=16).digest()
            if key in seen:
                continue
            seen.add(key)
            own = grams(text)
            sketch = RMinHash(num_perm=128, seed=1)
            sketch.update([" ".join(gram) for gram in own])
            digest = sketch.digest()
            keys = [tuple(digest[8 * band : 8 * band + 8]) for band in range(16)]
            others = [other for band, key in zip(bands, keys, strict=True) for other in band.get(key, ())]
            if any(len(own & other) / len(own | other) >= SIMILARITY for other in others):
                continue
            for band, key in zip(bands, keys, strict=True):
                band.setdefault(key, []).append(own)
            out.write(np.array([1, *tokenizer.encode(text), 2], dtype=np.uint16).tobytes())
            if size >= megabytes * 1e6:
                break
    seconds = time.monotonic() - started
    return {
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
