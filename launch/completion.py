"""Prints a script with which the shell completes programs, keys, config groups and their choices.

    source <(llamatrain completion bash)       in ~/.bashrc
    source <(llamatrain completion zsh)        in ~/.zshrc, after compinit
    llamatrain completion fish | source        in ~/.config/fish/config.fish

The script asks `llamatrain completion --line "<what is typed so far>"`, which reads configs/ as text and composes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from llamatrain.config.meanings import choices_of, groups, meanings
from llamatrain.config.presets import YAML, config_folder, known_presets, preset_overrides, yaml_name
from llamatrain.exits import guarded
from llamatrain.keys import check_values, one_of
from llamatrain.runs import read_json
from llamatrain.yaml_files import read_yaml

from .graph import Graph
from .graphs.chat import Chat, Data, Pairs, with_files_to_come
from .graphs.methods import build
from .programs import PROGRAMS, find, with_keys

S = TypeVar("S")
ASKED = "--line"
# A candidate that is whole ends in a space; one that goes on, a key or a group of keys, in `=` or `.`.
SCRIPTS = {
    "bash": """\
_llamatrain() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##* }"
    local before="${word%"${word##*[=:]}"}"  # readline completes what follows these characters
    COMPREPLY=($("${COMP_WORDS[0]}" completion --line "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o nospace -o default -F _llamatrain llamatrain
""",
    "zsh": """\
_llamatrain() {
    local -a found
    found=(${(f)"$(${words[1]} completion --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -Q -S '' -- $found
    else
        compset -P '*='
        _files
    fi
}
compdef _llamatrain llamatrain
""",
    "fish": """\
function __llamatrain
    llamatrain completion --line (commandline -cp | string collect) 2>/dev/null | string trim -r
end
complete -c llamatrain -f -a '(__llamatrain)'
complete -c llamatrain -n 'test -z (__llamatrain | string collect)' -F
""",
}


@dataclass
class CompletionConfig:
    """configs/completion.yaml says what each key means."""

    shell: str = field(metadata=one_of(SCRIPTS))

    def __post_init__(self) -> None:
        check_values(self)


def candidates(line: str) -> list[str]:
    """Return how the last word of a command line can go on; nothing where files are meant, or nothing is known."""
    *before, word = line.split(" ")
    typed = [one for one in before[1:] if one and one != "help"]
    if not typed:
        offered: Iterable[str] = (f"{name} " for name in PROGRAMS)
    elif (program := find(typed[0])) is not None:
        offered = _after(program, typed[1:], word)
    else:
        offered = ()
    return [one for one in dict.fromkeys(offered) if one.startswith(word)]


def _after(program: str, typed: Sequence[str], word: str) -> Iterator[str]:
    """Yield what may stand after a program's name and the words that were `typed` behind it."""
    about = PROGRAMS[program]
    if program == "stage" and len(typed) == 1:
        yield from (f"{name} " for name in read_json(Path(typed[0]) / "pipeline.json").get("stages", {}))
    if word.startswith("-"):
        yield from ("--help ", "--cfg job ")
        yield from ("--dry-run ", "--dry-run=") if about.plans or program == "pipeline" else ()
        yield from ("--multirun ",) if any(group == "run" for group, _, _ in groups(program)) else ()
    elif word.startswith("preset="):
        yield from (f"preset={name} " for name in sorted(known_presets()))
    else:
        yield from _settings(program, word)
        yield "preset="
        yield from ("ranks=",) if about.parallel else ()
    if program == "pipeline":
        yield from _of_stages(stages_of(typed), word)


def _of_stages(stages: Mapping[str, str], word: str) -> Iterator[str]:
    """Yield NAME.key=value of the programs and of a pipeline's stages (name -> program), and where a stage is named."""
    started = re.match(r"until=|rerun=(?:\[(?:\w+,)*)?", word)
    if started:
        end = "" if "[" in started[0] else " "  # of a list the next may follow, or its bracket
        yield from (f"{started[0]}{name}{end}" for name in stages)
    known = {name: name for name, one in PROGRAMS.items() if one.schema is not None} | dict(stages)
    for name, program in known.items():
        if word.startswith(f"{name}."):
            yield from (f"{name}.{key}" for key in _settings(program, word.removeprefix(f"{name}.")))
        elif "=" not in word:
            yield f"{name}."


def stages_of(typed: Sequence[str]) -> dict[str, str]:
    """Return stage -> program of the pipeline whose command was typed so far; nothing where it is none yet.

    Its keys are read as YAML, which is what Hydra would make of them but for rare quotes, in a tenth of its time.
    """
    presets = [one.removeprefix("preset=") for one in typed if one.startswith("preset=")]
    try:
        given = [*(override for name in presets for override in preset_overrides("pipeline", name)), *typed]
        pairs = [(key, value) for key, equals, value in (one.partition("=") for one in given) if equals]
        source = next((value for key, value in reversed(pairs) if key == "data"), "mine")
        folder = config_folder()
        file = Path(source) if source.endswith(YAML) else folder / "data" / f"{source}.yaml"
        data = {**read_yaml(folder / "data" / "mine.yaml"), **read_yaml(file)}
        values = {**read_yaml(folder / "pipeline.yaml"), "data": data}
        for key, value in pairs:
            *path, leaf = key.split(".")
            node = values
            for name in path:
                node = node.get(name, {})
            if leaf in node and key != "data":
                node[leaf] = yaml.safe_load(value)
        graph, cfg = Graph(), _filled(Chat, values)
        build(graph, cfg, with_files_to_come(cfg, _filled(Data, values["data"]))[0])
    except Exception:  # half typed, or wrong: the pipeline itself says what is
        return {}
    return {stage.name: stage.program for stage in graph.stages.values()}


def _filled(schema: type[S], values: Mapping[str, Any]) -> S:
    """Return plain values as a dataclass, a single one as a list where it has a list."""
    types, made = get_type_hints(schema), dict[str, Any]()
    for one in fields_of(schema):  # type: ignore[arg-type]
        value, kind = values[one.name], types[one.name]
        single = kind == list[str] and not isinstance(value, list)
        made[one.name] = _filled(Pairs, value) if kind is Pairs else [value] if single else value
    return schema(**made)


def _settings(program: str, word: str) -> Iterator[str]:
    """Yield the keys of a program, one level of dots at a time, or the values that the key in `word` takes."""
    known = {f"{group}@{at}" if at else group: group for group, at, _ in groups(program) if len(choices_of(group)) > 1}
    key, equals, _ = word.partition("=")
    if equals:
        values = choices_of(known[key]) if key in known else _values(program, key)
        yield from (f"{key}={value} " for value in values)
        return
    yield from (f"{group}=" for group in known)
    level = word[: word.rfind(".") + 1]
    keys = meanings(program)
    for name in keys:
        if name.startswith(level):
            part, dot, _ = name.removeprefix(level).partition(".")
            inner = dot or any(other.startswith(f"{level}{part}.") for other in keys)
            yield f"{level}{part}{'.' if inner else '='}"


def _values(program: str, key: str) -> list[str]:
    """Return the values that a key takes where they are few, by its field or, in its YAML, by being true or false."""
    schema: Any = PROGRAMS[program].schema
    *path, leaf = key.split(".")
    for name in path if schema is not None else ():
        schema = get_type_hints(schema).get(name)
        if not is_dataclass(schema):
            return []
    if schema is not None:
        found = next((one for one in fields_of(schema) if one.name == leaf), None)
        if found is not None and "choices" in found.metadata:
            return [str(choice) for choice in found.metadata["choices"]]
        boolean = get_type_hints(schema).get(leaf) is bool
    else:
        boolean = isinstance(dict(read_yaml(config_folder() / f"{yaml_name(program)}.yaml")).get(key), bool)
    return ["true", "false"] if boolean else []


def say(text: str) -> int:
    """Print and succeed."""
    print(text, end="")
    return 0


def main(argv: Sequence[str] | None = None) -> None:
    """Take the shell without its key, or answer a shell's script; for neither is Hydra asked, which takes long."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == [ASKED]:
        found = candidates(" ".join(given[1:]))
        sys.exit(guarded(lambda: say("".join(f"{one}\n" for one in found)), leaves=False))
    if len(given) == 1 and given[0] in SCRIPTS:
        sys.exit(guarded(lambda: say(SCRIPTS[given[0]]), leaves=False))
    from llamatrain.config import program

    program.main(
        "completion", CompletionConfig, lambda cfg: print(SCRIPTS[cfg.shell], end=""), with_keys("completion", given)
    )


if __name__ == "__main__":
    main()
