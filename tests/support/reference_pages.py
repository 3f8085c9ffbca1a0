"""Writes docs/methods.md, docs/commands.md and the matrix in README, as --write asks, from registry and help texts.

python -m tests.support.reference_pages [--write]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.page import filled
from fastdarts.cli.commands import GROUPS, find_command
from fastdarts.cli.flags import by
from fastdarts.cli.help import entries
from fastdarts.cli.listing import all_methods, all_spaces
from fastdarts.tasks.settings import EvaluateConfig
from tests.support.gpu_page import table
from tests.support.paths import ROOT

DARTS = "darts"
METHODS = """# Methods

`fastdarts search METHOD` searches by one of these. `fastdarts methods METHOD` lists all settings of a method, and
`fastdarts search METHOD --help` explains them. [A method of your own](own-method.md) is one file.

Defaults are the published ones. [Differences](differences.md) says where they are not. This page is written by
`python -m tests.support.reference_pages --write`."""
COMMANDS = """# Commands

`fastdarts COMMAND --help-all` says the same. This page is written by
`python -m tests.support.reference_pages --write`."""


def cell(text: Any) -> str:
    """What may stand in a cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def shown(value: Any) -> str:
    """A default as it is typed."""
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return cell(" ".join(map(str, value)) if isinstance(value, (tuple, list)) else value)


def methods_page() -> str:
    """All methods, the settings that they share, and what each has of its own."""
    facts = {method["name"]: method for method in all_methods()}
    shared = set.intersection(*(set(method["settings"]) for method in facts.values()))
    names = [space["name"] for space in all_spaces()]
    rows = []
    for name, method in facts.items():
        missing = [space for space in names if space not in method["spaces"]]
        spaces = "all" if not missing else ", ".join(method["spaces"])
        rows.append([f"[`{name}`](#{name})", cell(method["summary"]), cell(method["paper"]), spaces])
    parts = [METHODS, table(["method", "what it does", "paper", "spaces"], rows)]
    for name, method in facts.items():
        parts.append(f"## {name}\n\n{method['summary']} {method['paper']}.")
        if method["needs"]:
            parts.append(f"It needs a space or task with {', '.join(method['needs'])} ([what that means](spaces.md)).")
        own, other = own_settings(name, facts, shared)
        if own:
            parts.append(table(["its settings", "default", "meaning"], own))
        if other:
            parts.append("Its other defaults: " + ", ".join(f"`--{flag} {value}`" for flag, value in other) + ".")
    rows = [flag_row(flag, setting) for flag, setting in facts[DARTS]["settings"].items() if flag in shared]
    parts += ["## Settings that all methods have", table(["setting", "default of `darts`", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def matrix() -> str:
    """Methods × spaces × tasks: methods that search in the same spaces share a row, spaces with the same methods a
    column."""
    methods = {method["name"]: set(method["spaces"]) for method in all_methods() if method["spaces"]}
    columns: dict[frozenset[str], list[str]] = {}
    tasks = {space["name"]: space["task"] for space in all_spaces()}
    for space in tasks:
        columns.setdefault(frozenset(name for name, able in methods.items() if space in able), []).append(space)
    rows: dict[tuple[bool, ...], list[str]] = {}
    for name in methods:
        rows.setdefault(tuple(name in able for able in columns), []).append(f"`{name}`")
    titles = [f"{', '.join(spaces)} ({tasks[spaces[0]]})" for spaces in columns.values()]
    ordered = sorted(rows.items(), key=lambda row: (-sum(row[0]), row[1]))
    return table(
        ["methods", *titles], [[", ".join(names), *("✓" if able else "–" for able in row)] for row, names in ordered]
    )


def readme() -> str:
    """README with its matrix as it should be."""
    return filled((ROOT / "README.md").read_text(encoding="utf-8"), {"matrix": matrix()})


def flag_row(flag: str, setting: dict[str, Any]) -> list[str]:
    return [f"`--{flag.replace('_', '-')}`", shown(setting["default"]), cell(setting["help"])]


def own_settings(name: str, facts: dict[str, Any], shared: set[str]) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """The settings that DARTS has not, and those of DARTS whose defaults are others; of DARTS what not all have."""
    settings, darts = facts[name]["settings"], facts[DARTS]["settings"]
    extra = [flag for flag in settings if flag not in (shared if name == DARTS else darts)]
    changed = [
        (flag.replace("_", "-"), shown(settings[flag]["default"]))
        for flag in settings
        if name != DARTS and flag in darts and settings[flag]["default"] != darts[flag]["default"]
    ]
    return [flag_row(flag, settings[flag]) for flag in extra], changed


def commands_page() -> str:
    """All commands with their flags."""
    parts = [COMMANDS]
    for title, group in GROUPS.items():
        parts.append(f"## {title[0].upper()}{title[1:]}")
        for name, command in group.items():
            parts.append(f"### fastdarts {name}\n\n{command.summary}")
            parts += flags(name)
    return "\n\n".join(parts) + "\n"


def flags(name: str) -> list[str]:
    """Tables of the flags of a command, one for each group."""
    kind, settings, parts = find_command(name), None, []
    if name == "search":
        return ["`fastdarts search METHOD [FLAGS]`, by default DARTS. [Methods](methods.md) has the flags of each."]
    if name == "evaluate":
        settings = EvaluateConfig()
        kind = by(kind, type(settings))
        parts.append(
            "These are the flags for images. `fastdarts evaluate --space rnn --help-all` lists those for text, and "
            "`fastdarts evaluate --task TASK --help-all` those of other tasks."
        )
    groups: dict[str, list[list[str]]] = {}
    for entry in entries(kind, settings):
        missing = [choice for choice in entry.choices if choice not in entry.text]
        text = entry.text + f" One of {', '.join(entry.choices)}." * bool(missing)
        groups.setdefault(entry.group, []).append([f"`{entry.typed}`", entry.value or "–", cell(text)])
    return parts + [table([title, "default", "meaning"], rows) for title, rows in groups.items()]


pages: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "methods.md": methods_page,
    ROOT / "docs" / "commands.md": commands_page,
    ROOT / "README.md": readme,
}
"""What should stand in each page."""


def main(arguments: list[str]) -> int:
    texts = {page: write() for page, write in pages.items()}
    stale = {page: text for page, text in texts.items() if not page.exists() or page.read_text("utf-8") != text}
    for page, text in stale.items():
        if "--write" in arguments:
            page.write_text(text, encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'written' if '--write' in arguments else 'not what the help texts say'}")
    return int(bool(stale) and "--write" not in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
