"""What `mkdocs build` does beside rendering: links to files outside docs/ become names of these files."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """A link such as [text](../examples/x.py) works on a page of the sources, but not on the site."""
    return OUTSIDE.sub(lambda found: found[1] if found[1] == found[2] else f"{found[1]} (`{found[2]}`)", markdown)
