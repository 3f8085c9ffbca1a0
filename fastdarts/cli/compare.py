"""The command ``fastdarts compare``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastdarts.errors import FastdartsError


@dataclass(frozen=True)
class Compare:
    """Put runs beside each other: methods times seeds, means and paired differences, size, time and memory."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of searches and evaluations, and folders that hold such folders. An evaluation joins the search whose
    genotype it has trained."""

    baseline: str | None = None
    """Method from which the others' differences are taken (the first)."""
    html: Path | None = None
    """File for a page with the tables and the curves of all methods over each other."""
    markdown: Path | None = None
    """File for the tables in Markdown."""
    csv: Path | None = None
    """File with a row for each run."""
    json: Path | None = None
    """File for everything, as JSON."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations."""

    def run(self) -> None:
        """Print the tables and write the files."""
        from fastdarts.compare.page import write_page
        from fastdarts.compare.table import as_json, best, compare, csv_text, markdown, text
        from fastdarts.runs.writer import atomic_write

        if not self.folders:
            raise FastdartsError("the folders are missing: name runs, or folders that hold runs")
        found = compare(self.folders, self.baseline)
        print(text(found))
        if sentence := best(found):
            print(f"\n{sentence}")
        texts = {self.markdown: lambda: markdown(found), self.csv: lambda: csv_text(found)}
        texts |= {self.json: lambda: json.dumps(as_json(found), indent=2, ensure_ascii=False)}
        for path, make in texts.items():
            if path is not None:
                atomic_write(path, make().encode())
                print(f"wrote {path}")
        if self.html is not None:
            write_page(found, self.html)
            print(f"page {self.html}")
