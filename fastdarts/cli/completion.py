"""The command ``fastdarts completion``: a script by which a shell completes command lines.

The script holds everything itself, so that a press of the Tab key starts no Python. It is made again after an update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdarts import __version__
from fastdarts.cli.arguments import Parameter
from fastdarts.cli.choosing import flags_of
from fastdarts.cli.commands import COMMANDS
from fastdarts.registry import methods
from fastdarts.runs.settings import choices_of
from fastdarts.runs.stored import alternatives
from fastdarts.spaces import SPACES, add_installed


@dataclass(frozen=True)
class Completion:
    """Print a script by which a shell completes commands, flags, methods, datasets and spaces."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell that reads the script."""
    plugin: tuple[str, ...] = ()
    """Python files of your own whose methods and spaces are completed too."""

    def run(self) -> None:
        """Print the script."""
        add_installed()
        print(SCRIPTS[self.shell]())


def _typed(parameter: Parameter) -> list[str]:
    return [parameter.name] + [f"--no-{parameter.name[2:]}"] * parameter.switch


def _flags(command: str) -> list[str]:
    named = [parameter for parameter in flags_of(command).values() if not parameter.place]
    return [flag for parameter in named for flag in _typed(parameter)] + ["--help", "--help-all"]


def _values(command: str) -> dict[str, list[str]]:
    """The words that may follow a flag, or stand in a place without one ("")."""
    known: dict[str, Iterable[str]] = {"--method": methods(), "--space": SPACES}
    found = {}
    for parameter in flags_of(command).values():
        words = choices_of(parameter.one) or known.get(parameter.name, ())
        if words:
            found["" if parameter.place else parameter.name] = [*words]
    if command in ("search", "methods"):
        found[""] = [*methods()]
    return found


def _takes_files(command: str) -> list[str]:
    """The flags that a file or a folder follows; "" for a place without a flag."""
    files = {"--plugin", "--genotype", "the images"}
    found = [p for p in flags_of(command).values() if Path in alternatives(p.one) or p.name in files]
    return ["" if parameter.place else parameter.name for parameter in found]


def _cases(table: Mapping[str, str], indent: str) -> str:
    return "\n".join(f"{indent}{pattern}) {action} ;;" for pattern, action in table.items() if action)


def _bash() -> str:
    flags = {name: f"flags='{' '.join(_flags(name))}'" for name in COMMANDS}
    values, files = {}, []
    for name in COMMANDS:
        values |= {f"'{name} {flag}'": f"words='{' '.join(words)}'" for flag, words in _values(name).items()}
        files += [f"'{name} {flag}'" for flag in _takes_files(name)]
    switches = {name: [flag for p in flags_of(name).values() if p.switch for flag in _typed(p)] for name in COMMANDS}
    alone = {flag for found in switches.values() for flag in found} | {"--help", "--help-all"}
    return BASH.format(
        version=__version__,
        commands=" ".join(COMMANDS),
        flags=_cases(flags, " " * 8),
        values=_cases(values, " " * 8),
        files="|".join(files),
        alone="|".join(sorted(alone)),
    )


BASH = """# bash completion of fastdarts {version}, printed by: fastdarts completion bash
_fastdarts() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}
    local flags='' words='' takes_files=''
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{commands} --help --version' -- "$current"))
        return
    fi
    # bash cuts --flag=value into three words
    if [ "$current" = = ]; then current=''; elif [ "$before" = = ]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    case $before in --*) ;; *) before='' ;; esac
    case $before in {alone}) before='' ;; esac
    case $command in
{flags}
    esac
    case "$command $before" in
{values}
    esac
    case "$command $before" in {files}) takes_files=yes ;; esac
    if [ "${{current#-}}" != "$current" ]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
        return
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ -n "$takes_files" ]; then
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$current"))
        compopt -o filenames 2>/dev/null
    fi
}}
complete -F _fastdarts fastdarts"""


def _zsh() -> str:
    commands = "\n".join(f"        '{name}:{_quoted(command.summary)}'" for name, command in COMMANDS.items())
    flags = _cases({name: _zsh_flags(name) for name in COMMANDS}, " " * 8)
    return ZSH.format(version=__version__, commands=commands, flags=flags)


def _zsh_flags(command: str) -> str:
    """The call of _arguments for a command."""
    values, files, found = _values(command), _takes_files(command), []
    for parameter in flags_of(command).values():
        name = "" if parameter.place else parameter.name
        action = f"({' '.join(values[name])})" if name in values else "_files" if name in files else " "
        if parameter.place:
            found.append(f"'{'*' if parameter.many else ''}:{parameter.name.removeprefix('the ')}:{action}'")
        elif parameter.switch:
            found += [f"'{flag}'" for flag in _typed(parameter)]
        else:
            found.append(f"'*{name}=:{name[2:]}:{action}'")
    if command == "search":
        found.append(f"'::method:({' '.join(values[''])})'")
    return "_arguments " + " ".join([*found, "--help", "--help-all"])


def _quoted(text: str) -> str:
    return text.replace("'", "'\\''").replace(":", "\\:")


ZSH = """#compdef fastdarts
# zsh completion of fastdarts {version}, printed by: fastdarts completion zsh
_fastdarts() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{flags}
    esac
}}
if [ "$funcstack[1]" = _fastdarts ]; then _fastdarts "$@"; else compdef _fastdarts fastdarts; fi"""

SCRIPTS = {"bash": _bash, "zsh": _zsh}
