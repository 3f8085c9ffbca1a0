"""HTML and SVG that are safe by type: a value is escaped wherever it is put in, unless it is :class:`Html` itself."""

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape


class Html(str):
    """Markup that stands in a page as it is. Whatever is made from it by other means than these functions is text."""

    __slots__ = ()


EMPTY = Html()
_VOID = {"br", "img", "input", "meta"}
_SHAPES = {"circle", "path", "rect"}  # of SVG: without content they close themselves


def xml_text(value: object) -> str:
    """`value` as text that is safe in XML and HTML, in element content and in quoted attributes."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", str(value)), {'"': "&quot;"})


def joined(parts: Iterable[object], between: object = "") -> Html:
    """The `parts` one after another with `between` in between: markup as it is, everything else escaped."""
    return Html(_escaped(between).join(map(_escaped, parts)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """An element with this `content`, joined.

    attributes: every value is escaped; None leaves the attribute out, True leaves out its value. In names "_" means
        "-", and at the end nothing (class_).
    """
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opening = tag + "".join(f" {n}" if value is True else f' {n}="{xml_text(value)}"' for n, value in given.items())
    if tag in _VOID:
        return Html(f"<{opening}>")
    if tag in _SHAPES and not content:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{joined(content)}</{tag}>")


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else xml_text(value)
