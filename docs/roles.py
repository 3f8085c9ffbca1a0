"""Docstrings are written with roles such as :class:`MixedOp`; the site shows them as code."""

import re

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|math):`~?\.?([^`<]+?)(?:\s*<[^>]*>)?`")


class Roles(griffe.Extension):
    """What stands in a docstring, in Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = text.replace("``", "`")
