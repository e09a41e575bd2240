"""Links of the checkout lead somewhere, in it and in the site; the site loads nothing from other hosts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docsite.links import in_site, loaded_from_elsewhere
from docsite.reference import PAGES
from tests.running import ROOT

TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchors(path: Path) -> set[str]:
    """The anchors of a page, as GitHub and mkdocs make them of headings without accents."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "").lower()).strip()) for title in titles
    }


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_leads_to_a_file_of_the_checkout_and_a_heading_in_it(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", text):
        file = (path.parent / target).resolve() if target else path
        made = file.is_relative_to(ROOT / "docs") and file.relative_to(ROOT / "docs").as_posix() in PAGES
        if not made and (not file.exists() or (anchor and anchor not in anchors(file))):
            dead.append(f"{target}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("path", [path for path in TEXTS if path.parent.name == "docs"], ids=lambda path: path.name)
def test_a_page_has_one_title(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("address", "link", "made"),
    [
        ("fleet.md", "teams.md#keys", "teams.md#keys"),
        ("fleet.md", "../deploy/compose.fleet.yaml", "files/deploy/compose.fleet.yaml"),
        ("fleet.md", "../README.md", "index.md"),
        ("fleet.md", "../CONTRIBUTING.md#glossary", "contributing.md#glossary"),
        ("fleet.md", "#logins", "#logins"),
        ("fleet.md", "mailto:a@example.com", "mailto:a@example.com"),
        ("fleet.md", "https://example.com/a.md", "https://example.com/a.md"),
        ("changelog.md", "docs/fleet.md#logins", "fleet.md#logins"),
        ("security.md", "docs/how-it-works.md", "how-it-works.md"),
        ("reference/options.md", "../mitmproxy.md", "../mitmproxy.md"),
        ("reference/settings.md", "../../config/pool.example.toml", "../files/config/pool.example.toml"),
    ],
)
def test_a_link_is_the_same_in_the_site(address: str, link: str, made: str) -> None:
    assert in_site(f"see [it]({link}).", address, {}) == f"see [it]({made})."


def test_a_link_has_the_title_of_its_page_in_place_of_a_file_name() -> None:
    titles = {"fleet.md": "Several machines", "contributing.md": "Contributing"}
    text = "[fleet.md](fleet.md#logins), [CONTRIBUTING.md](../CONTRIBUTING.md), [a](fleet.md)"
    assert in_site(text, "teams.md", titles) == (
        "[Several machines](fleet.md#logins), [Contributing](contributing.md), [a](fleet.md)"
    )


def test_a_pipe_in_the_code_of_a_table_has_no_backslash() -> None:
    assert in_site("| a | `b \\| c` | d \\| e |", "teams.md", {}) == "| a | `b | c` | d \\| e |"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://unpkg.com/x.js"></script>',
        "<script async src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css?family=Roboto">',
        '<link href="https://fonts.gstatic.com" rel="preconnect">',
        '<img alt="a" src="http://example.com/a.png">',
        "@font-face { src: url(https://example.com/a.woff2) }",
        '@import "//example.com/a.css";',
        '<pre class="mermaid">',
    ],
)
def test_what_is_loaded_from_another_host_is_found(text: str) -> None:
    assert loaded_from_elsewhere(f"<p>a</p>\n{text}\n<p>b</p>")


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://example.com">',
        '<script src="assets/a.js"></script><a href="https://example.com">',
        '<link rel="stylesheet" href="assets/a.css">',
        '<link rel="canonical" href="https://example.com/">',
        "a { background: url(data:image/png;base64,AAAA) }",
        "<svg xmlns='http://www.w3.org/2000/svg'>",
    ],
)
def test_what_is_only_a_link_is_not_loaded(text: str) -> None:
    assert loaded_from_elsewhere(text) == ""
