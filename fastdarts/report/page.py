"""The frame of the report: one HTML page with its style and its script, nothing loaded from anywhere."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.scripts import SCRIPT
from fastdarts.report.style import STYLE


def html_page(title: str, body: Html, script: str = SCRIPT) -> str:
    """A whole page. It may load nothing and run nothing but ``script``, which is code of this package; it may show
    pictures that it holds itself."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    head = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Html(STYLE)),
    )
    run = element("script", Html(script))
    page = element("html", _lines(element("head", _lines(*head)), element("body", _lines(body, run))), lang="en")
    return joined((Html("<!doctype html>"), page, EMPTY), "\n")


def _lines(*parts: Html) -> Html:
    return joined((EMPTY, *(part for part in parts if part), EMPTY), "\n")


def section(title: str, content: Html, about: str = "") -> Html:
    """A section of the page, with what its "?" explains; empty without content."""
    return element("section", element("h2", title, help_mark(title, about)), content) if content else EMPTY


def card(label: str, value: str, note: str = "", about: str = "", exact: str | None = None) -> Html:
    """A card of one number, with a note below and what its "?" explains; ``exact`` is shown where a mouse rests."""
    value, note = (text.replace(" %", "\u00a0%") for text in (value, note))
    strong = element("strong", value, title=exact)
    return element("div", element("span", label), strong, element("small", note), help_mark(label, about))


def help_mark(title: str, about: str) -> Html:
    """A "?" that opens the explanation of ``title``, for the mouse and for the keyboard; empty without one."""
    if not about:
        return EMPTY
    mark = element("summary", "?", title=about, aria_label=f"What is {title}?")
    return element("details", mark, element("p", about), class_="help")


def table_row(cells: Iterable[object], tag: str = "td") -> Html:
    """A row of a table."""
    return element("tr", *(element(tag, cell) for cell in cells))


def sortable_table(head: Sequence[object], rows: Sequence[Sequence[object]], kind: str | None = None) -> Html:
    """A table that scrolls where it is too wide, and that a click on a title sorts; empty without rows."""
    if not rows:
        return EMPTY
    titles = element("thead", table_row(head, "th"))
    table = element("table", titles, element("tbody", *map(table_row, rows)), class_=f"sortable {kind or ''}".strip())
    return element("div", table, class_="wide")


def fact_tables(facts: Mapping[str, Mapping[str, object]]) -> Html:
    """A table of two columns under each title; empty ones are left out."""
    tables = (
        element("div", element("h3", title), element("table", *map(_fact, values.items())))
        for title, values in facts.items()
        if values
    )
    return element("div", *tables, class_="tables") if any(facts.values()) else EMPTY


def _fact(fact: tuple[str, object]) -> Html:
    return element("tr", element("th", fact[0]), element("td", fact[1]))
