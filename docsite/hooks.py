"""What mkdocs calls while it builds the site: it adds the generated pages, and files from outside docs/."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from codexpool import __version__
from codexpool.local.checkout import commit
from docsite.links import FOLDER, OUTSIDE, in_site, loaded_from_elsewhere
from docsite.reference import PAGES

ROOT = Path(__file__).parent.parent
DOWNLOADS = ("config/pool.example.toml", "deploy", "LICENSE")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Say at the end of each page which version it is of."""
    known = commit()
    config.copyright = f"codexpool {__version__}{f', commit {known}' if known else ''}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for address, make in PAGES.items():
        files.append(File.generated(config, address, content=make()))
    for name, address in OUTSIDE.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in downloads():
        files.append(File.generated(config, f"{FOLDER}/{path.relative_to(ROOT).as_posix()}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    titles = {
        file.src_uri: file.content_string.partition("\n")[0].removeprefix("# ")
        for file in files.documentation_pages()
    }
    return in_site(markdown, page.file.src_uri, titles)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page would load something from another host."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := loaded_from_elsewhere(path.read_text(encoding="utf-8"))):
            raise PluginError(f"{path}: loads a file from another host: {found[:200]}")


def downloads() -> list[Path]:
    found = [path for name in DOWNLOADS for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
    return [path for path in found if "secrets" not in path.parts]
