"""Records of what kernels need and issue, by version of the compiler: another one may do better or worse.

A record is {version: {kernel: facts}}, one kernel a line.
"""

import json
from pathlib import Path

import pytest

from tests.support.paths import ROOT

INSTRUCTIONS = ROOT / "fastdarts" / "bench" / "instructions.json"


def without_regions(facts: dict) -> dict:
    """Without the instructions, which are a record of their own."""
    return {name: value for name, value in facts.items() if name != "regions"}


def write(path: Path, version: str, facts: dict[str, dict]) -> None:
    """Replaces what is recorded for this version; other versions stay."""
    record = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}) | {version: facts}
    versions = []
    for name in sorted(record):
        lines = (f" {json.dumps(kernel)}: {json.dumps(used)}" for kernel, used in record[name].items())
        versions.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    path.write_text("{\n" + ",\n".join(versions) + "\n}\n", encoding="utf-8")


def recorded(path: Path, version: str, command: str) -> dict[str, dict]:
    """What is recorded for this version; without a record the test is skipped, saying how to make one."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if version not in record:
        pytest.skip(f"{path.name} has {', '.join(record)}, not {version}: record it by {command} --write")
    return record[version]


def more_instructions(found: dict[str, dict], record: dict[str, dict]) -> list[str]:
    """The regions that issue more than is recorded, and those that are not known."""
    wrong = []
    for name, used in found.items():
        known = record.get(name, {}).get("regions", {})
        for region, counts in used["regions"].items():
            if region not in known or counts["all"] > known[region]["all"]:
                wrong.append(f"{name} {region}: {counts}, recorded {known.get(region)}")
    return wrong
