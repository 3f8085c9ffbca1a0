"""Folders of searches that nobody has run, and reports read back from their HTML."""

import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from fastdarts.nn.operations import PRIMITIVES
from fastdarts.report.write import write_report
from fastdarts.runs.writer import Recorder
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V2

EDGES, NAMES = 14, len(PRIMITIVES)
VOID = {"meta", "br", "input", "img"}
SVG_ONLY = {"svg", "path", "rect", "circle", "text", "tspan", "g", "desc"}


class Page(HTMLParser):
    """A report: its text, its tags (checked to be balanced) and its drawings."""

    def __init__(self, html):
        super().__init__()
        self.html, self.text, self.tags, self._open = html, "", [], []
        self.feed(html)
        self.close()
        assert not self._open
        self.charts = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG_ONLY
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] not in (["style"], ["script"]):
            self.text += data.replace("\u00a0", " ")

    def chart(self, title):
        (found,) = [svg for svg in self.charts if svg.get("aria-label") == f"{title} over epochs"]
        return found

    def having(self, tag, kind):
        return [attrs for name, attrs in self.tags if name == tag and attrs.get("class") == kind]


def page_of(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert {"link", "iframe", "object", "base"}.isdisjoint(tags)
    assert tags.count("script") == 1  # and what may run is that one only
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall("<script>(.*?)</script>", page.html, re.DOTALL)
    allowed = f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; {allowed}"
    for _, attrs in page.tags:  # nothing is loaded, nothing runs, nothing clashes
        assert not any(name in ("href", "id") or name.startswith("on") for name in attrs)
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import", page.html)
    return page


def weights(epoch, edge, k):
    return 0.05 + 0.01 * epoch + 0.001 * edge + 0.0001 * k


def search_row(epoch, genotype=DARTS_V2, **more):
    table = [[weights(epoch, edge, k) for k in range(NAMES)] for edge in range(EDGES)]
    return {
        "epoch": epoch,
        "lr": 0.025 / (epoch + 1),
        "train_loss": 2.0 - 0.25 * epoch,
        "train_error": 60.0 - 5 * epoch,
        "valid_loss": 2.25 - 0.25 * epoch,
        "valid_error": 65.0 - 5 * epoch,
        "arch_loss": 2.5 - 0.25 * epoch,
        "entropy_normal": 2.07 - 0.1 * epoch,
        "entropy_reduce": 2.05 - 0.1 * epoch,
        "skip_normal": 2,
        "skip_reduce": 3,
        "weights_normal": table,
        "weights_reduce": table,
        "genotype": to_dict(genotype),
        "seconds": 30.0,
    } | more


def search(run, rows, *, finished=True, dataset="digits", primitives=PRIMITIVES):
    with Recorder(run) as recorder:
        recorder.write_text("config.toml", f'dataset = "{dataset}"\nmethod = "darts"\nepochs = 6\nunrolled = true\n')
        recorder.write_json(
            "environment.json",
            {"torch": "9.8.7", "primitives": dict.fromkeys(("normal", "reduce"), [list(primitives)] * EDGES)},
        )
        for row in rows:
            recorder.epoch(row)
        if finished:
            result = {
                "kind": "search",
                "method": "darts",
                "genotype": rows[-1]["genotype"],
                "valid_error": 40.0,
            }
            recorder.write_json("result.json", result)
            recorder.write_json("genotype.json", rows[-1]["genotype"])
    return run
