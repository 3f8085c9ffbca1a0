"""The frame of the report: one HTML page with its style, nothing loaded from anywhere."""

import base64
import hashlib
from collections.abc import Iterable, Mapping

from fastdarts.report.markup import EMPTY, Html, element, joined


def html_page(title: str, body: Html, script: str = "") -> str:
    """A whole page. It may load nothing and run nothing but `script`, which is code of this package."""
    policy, run = "default-src 'none'; style-src 'unsafe-inline'", EMPTY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, run = f"{policy}; script-src 'sha256-{digest}'", element("script", Html(script))
    head = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Html(STYLE)),
    )
    page = element("html", _lines(element("head", _lines(*head)), element("body", _lines(body, run))), lang="en")
    return joined((Html("<!doctype html>"), page, EMPTY), "\n")


def _lines(*parts: Html) -> Html:
    return joined((EMPTY, *(part for part in parts if part), EMPTY), "\n")


def table_row(cells: Iterable[object], tag: str = "td") -> Html:
    """A row of a table."""
    return element("tr", *(element(tag, cell) for cell in cells))


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


STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5b6575; --rule: #e3e6eb;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1319; --card: #181e27; --ink: #e6e9ee; --soft: #9aa4b2; --rule: #2b3340 }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 28px 20px 60px; max-width: 1180px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { display: inline; font-size: 26px; margin-right: 12px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 36px 0 12px }
h3 { font-size: 15px; margin: 18px 0 4px }
header p, section p { color: var(--soft); margin: 4px 0 12px }
.badge { background: #b45309; color: #fff; border-radius: 99px; padding: 3px 11px; font-size: 13px }
.badge.good { background: #15803d }

.cards div, figure, .drawings > div, .tables > div, pre, .wide {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; margin: 0;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px }
.cards { margin-top: 18px }
.cards span, .cards small { display: block; color: var(--soft); font-size: 13px }
.cards strong { display: block; font-size: 21px; line-height: 1.4 }

.drawings { display: flex; flex-wrap: wrap; gap: 12px }
.drawings > div { flex: 1 1 auto; max-width: 100%; overflow-x: auto }
.drawings svg { display: block; margin: auto; max-width: 100%; min-width: 600px; height: auto }
pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; margin-top: 12px; font-size: 12.5px }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(350px, 100%), 1fr)); gap: 12px }
figure svg { display: block; width: 100%; height: auto; margin-top: 6px }
figcaption strong { margin-right: 14px }
.spans { display: grid; gap: 12px }
.legend { font-size: 13px; color: var(--soft) }
.legend > span { display: inline-block; margin-right: 12px; white-space: nowrap }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 5px }
.legend i { vertical-align: middle }
.legend b { color: var(--ink); font-weight: 600 }
.grid { stroke: var(--rule); fill: none }
.line { fill: none; stroke-linejoin: round }
.tick { fill: var(--soft); font-size: 11px }
.bar { fill: #fff; font-size: 11px }

.marker path { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3 }
.player { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px }
.player { align-items: start }
.player .drawings svg { min-width: 0 }
.controls { display: flex; gap: 10px; align-items: center; margin-top: 12px }
.controls[hidden], .drawings[hidden] { display: none }
.controls input { flex: 1; accent-color: #2563eb }
.controls button { width: 40px; height: 32px; border: 1px solid var(--rule); border-radius: 8px; cursor: pointer }
.controls button { background: var(--card); color: var(--ink); font-size: 15px }
.player .now { font-variant-numeric: tabular-nums; margin: 8px 0 }

.wide { overflow-x: auto }
.charts + .wide { margin-top: 12px }
.edges { display: grid; gap: 8px }
.edges div { border: 1px solid var(--rule); border-radius: 7px; padding: 4px 7px }
.edges .kept { border: 2px solid var(--soft); padding: 3px 6px }
.edges .left { opacity: .75 }
.edges span { font-size: 12px; color: var(--soft) }
.edges b { float: right }
.edges svg { display: block; width: 100% }

.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px }
.tables { align-items: start }
.tables h3 { margin-top: 0 }
table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { text-align: left; padding: 3px 14px 3px 0; vertical-align: top }
th { font-weight: 500; color: var(--soft); white-space: nowrap }
.tables td { overflow-wrap: anywhere }
tr + tr { border-top: 1px solid var(--rule) }
.candidates td { white-space: nowrap }
.candidates tr:nth-child(2) td { font-weight: 600 }
@media print { figure, .wide, .drawings > div { break-inside: avoid } }
"""
