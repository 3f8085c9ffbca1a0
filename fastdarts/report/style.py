"""The style of the report: light and dark, for wide and narrow windows, and for print."""

from fastdarts.report.colours import BADGES, BLUE, DARK, LIGHT


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


_BADGES = "\n".join(f".badge{f'.{kind}' if kind else ''} {{ background: {colour} }}" for kind, colour in BADGES.items())

STYLE = (
    f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
{_BADGES}
.controls input {{ accent-color: {BLUE} }}
:focus-visible {{ outline: 2px solid {BLUE}; outline-offset: 2px }}
"""
    + """
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 28px 20px 60px; max-width: 1180px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { display: inline; font-size: 26px; margin-right: 12px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 36px 0 12px }
h3 { font-size: 15px; margin: 18px 0 4px }
header p, section p { color: var(--soft); margin: 4px 0 12px }
.badge { color: #fff; border-radius: 99px; padding: 3px 11px; font-size: 13px; white-space: nowrap }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }

.cards > div, figure, .drawings > div, .tables > div, pre, .wide, .says {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; margin: 0;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; margin-top: 18px }
.cards > div { position: relative; min-width: 0 }
.cards span, .cards small { display: block; color: var(--soft); font-size: 13px; overflow-wrap: anywhere }
.cards span { padding-right: 22px }
.cards strong { display: block; font-size: 21px; line-height: 1.4; overflow-wrap: anywhere }

.says { margin-top: 12px; padding: 4px 14px }
.says ul { list-style: none; margin: 0; padding: 0 }
.says li { padding: 10px 0 }
.says li + li { border-top: 1px solid var(--rule) }
.says .badge { margin-right: 8px; font-size: 12px; padding: 2px 9px }
.says p { margin: 6px 0 0 }
.says code { display: block; margin-top: 6px; padding: 6px 9px; border: 1px solid var(--rule); border-radius: 7px }
.says code { font-size: 12.5px; overflow-wrap: anywhere; user-select: all; background: var(--page) }

.help { display: inline-block; vertical-align: middle }
.help summary {
  list-style: none; cursor: pointer; width: 18px; height: 18px; border: 1px solid var(--soft); border-radius: 50%;
  color: var(--soft); font-size: 12px; line-height: 16px; text-align: center;
}
.help summary::-webkit-details-marker { display: none }
.help[open] { display: block }
.help p { margin: 4px 0 0; font-size: 13px; font-weight: 400 }
.cards .help:not([open]) { position: absolute; top: 12px; right: 12px }
.cards .help[open] { margin-top: 6px }
.heading > :is(h2, h3) { display: inline-block; margin-right: 8px }

.drawings { display: flex; flex-wrap: wrap; gap: 12px }
.drawings > div { flex: 1 1 auto; max-width: 100%; overflow-x: auto }
.drawings svg { display: block; margin: auto; max-width: max(100%, 600px); height: auto }
.drawings text.heading { fill: var(--soft) }
pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; margin-top: 12px; font-size: 12.5px }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 12px }
figure { min-width: 0 }
figure svg { display: block; width: 100%; height: auto; margin: 6px auto 0 }
.charts figure > svg { max-width: 460px }
figcaption strong { margin-right: 8px }
figcaption .help { margin-right: 10px }
.spans { display: grid; gap: 12px }
.spans > * { min-width: 0 }
.scroll { overflow-x: auto }
.spans svg { min-width: 660px }
.legend { font-size: 13px; color: var(--soft) }
.legend > span { display: inline-block; margin-right: 12px }
i.patch { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 5px }
i.patch { vertical-align: middle }
.legend b { color: var(--ink); font-weight: 600 }
.grid { stroke: var(--rule); fill: none }
.line { fill: none; stroke-linejoin: round }
.tick { fill: var(--soft); font-size: 11px }
.bar { fill: #fff; font-size: 11px }
.cursor { stroke: var(--ink); stroke-width: 1; pointer-events: none }
.tip {
  position: fixed; z-index: 1; pointer-events: none; background: var(--card); color: var(--ink); font-size: 13px;
  border: 1px solid var(--soft); border-radius: 7px; padding: 5px 9px; max-width: 280px;
}
.tip[hidden] { display: none }
.tip div { white-space: nowrap; overflow: hidden; text-overflow: ellipsis }

.marker path { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3 }
.player { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px }
.player { align-items: start }
.player > * { min-width: 0 }
.player .drawings svg { max-width: max(100%, 420px) }
.controls { display: flex; gap: 10px; align-items: center; margin-top: 12px }
.controls[hidden], .drawings[hidden] { display: none }
.controls input { flex: 1; min-width: 0 }
.controls button { width: 40px; height: 32px; border: 1px solid var(--rule); border-radius: 8px; cursor: pointer }
.controls button { background: var(--card); color: var(--ink); font-size: 15px }
.player .now { font-variant-numeric: tabular-nums; margin: 8px 0 }

.wide { overflow-x: auto }
.charts + .wide, .wide + .wide, .wide + .charts { margin-top: 12px }
.edges { display: grid; gap: 8px }
.edges > div { border: 1px dashed var(--rule); border-radius: 7px; padding: 4px 7px; min-width: 0 }
.edges > .kept { border: 2px solid var(--soft); padding: 3px 6px }
.edges span { font-size: 12px; color: var(--soft) }
.edges b { float: right; font-size: 12px }
.edges svg { display: block; width: 100% }

.matrix td, .matrix th { text-align: right; padding: 3px 6px; white-space: nowrap }
.matrix th:first-child { text-align: left }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 12px }
.pictures figure { padding: 8px; text-align: center }
.pictures img { width: 96px; max-width: 100%; height: 96px; object-fit: contain; image-rendering: pixelated }
.pictures.maps { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)) }
.pictures.maps img { width: 100%; height: auto }
.pictures figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere }
.pictures b { color: var(--ink) }

.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px }
.tables { align-items: start }
.tables > div { min-width: 0 }
.tables h3 { margin-top: 0 }
table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { text-align: left; padding: 3px 14px 3px 0; vertical-align: top }
th { font-weight: 500; color: var(--soft); white-space: nowrap }
th button { all: unset; cursor: pointer }
th button:focus-visible { outline: 2px solid var(--soft) }
th[aria-sort=ascending] button::after { content: " \\25b4" }
th[aria-sort=descending] button::after { content: " \\25be" }
.tables td { overflow-wrap: anywhere }
tr + tr, thead + tbody { border-top: 1px solid var(--rule) }
.candidates td, .numbers td + td { white-space: nowrap }
td.most { font-weight: 600 }
@media (max-width: 520px) {
  body { padding: 16px 10px 40px }
  .cards { grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)) }
  .tables table { table-layout: fixed }
  .tables th { white-space: normal; overflow-wrap: anywhere; width: 38% }
}
@media print { figure, .wide, .drawings > div { break-inside: avoid } }
"""
)
