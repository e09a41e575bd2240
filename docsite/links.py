"""Where links of the checkout lead in the site, and what a page must not load."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Final

# Files beside docs/ that are pages, and their addresses in the site.
OUTSIDE: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
START: Final = {"README.md": "index.md"}  # The front door of the checkout is another page than that of the site.
FOLDER: Final = "files"  # The folder of the site for what pages link to and readers download.

LINK: Final = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?![a-z]+:|#)(?P<target>[^)#\s]+)")

# A pipe in code has a backslash in a table of GitHub. The site's Markdown would show it.
_IN_A_TABLE: Final = re.compile(r"(?<=\| )`[^`\n]*`(?= \|)")

# What makes a browser load a file from another host. (Links to click on may lead anywhere.)
LOADED: Final = re.compile(
    r"""<(?:script|img|iframe|source|embed|object)\b[^>]*?\b(?:src|data)=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*?\bhref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|(?:url\(|@import\s)\s*["']?(?:https?:)?//[^\s"')]+"""
    # The theme loads a library for such diagrams.
    r"""|class="mermaid\""""
)


def in_site(markdown: str, address: str, titles: Mapping[str, str]) -> str:
    """Return the text of the page at ``address`` as the site has it.

    Its links lead to pages of the site, and have the ``titles`` of these, by address, in place of file names.
    """
    source = next((name for name, made in OUTSIDE.items() if made == address), f"docs/{address}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        if target in OUTSIDE | START:
            target = (OUTSIDE | START)[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            target = posixpath.join(FOLDER, target)
        text = titles.get(target, link["text"]) if link["text"].endswith(".md") else link["text"]
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(address) or '.')}"

    return _IN_A_TABLE.sub(lambda code: code[0].replace(r"\|", "|"), LINK.sub(moved, markdown))


def loaded_from_elsewhere(text: str) -> str:
    """Return the first thing in HTML or CSS that a browser would load from another host; empty if there is none."""
    found = LOADED.search(text)
    return found[0] if found is not None else ""
