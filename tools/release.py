"""Make a release: `just release 0.2.0`. Publishes nothing.

It checks, writes the version and the date into the files, builds, and commits with a tag, in this order. If a step
fails, the files are as they were before.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VERSION_FILE: Final = "codexpool/__init__.py"
CHANGELOG: Final = "CHANGELOG.md"
UNRELEASED: Final = "## Unreleased"
CHECKS: Final = ("lint", "types", "docs", "test")

_VERSION: Final = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)

Run = Callable[[Sequence[str]], None]


class ReleaseError(Exception):
    """Why there is no release."""


def main(arguments: Sequence[str]) -> int:
    try:
        [version] = arguments
    except ValueError:
        print("usage: just release VERSION", file=sys.stderr)
        return 2
    try:
        files = release(version, ROOT, datetime.now(UTC).date(), run)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"\nReleased {version} here:")
    for path in files:
        print(f"  {hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}")
    print(f"Nothing was published. To publish it: git push origin HEAD v{version}")
    print(f"To undo it: git tag -d v{version} && git reset --hard HEAD~1")
    return 0


def release(version: str, root: Path, today: date, run: Run) -> list[Path]:
    """Check, build, commit and tag; return the built files. Raises ReleaseError."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in (VERSION_FILE, CHANGELOG)}
    changed = {
        VERSION_FILE: with_version(texts[VERSION_FILE], version),
        CHANGELOG: with_section(texts[CHANGELOG], version, today),
    }
    require_clean(root, version)
    try:
        for name, text in changed.items():
            (root / name).write_text(text, encoding="utf-8")
        for check in CHECKS:
            run(("just", check))
        run(("uv", "build", "--out-dir", str(root / "dist")))
        files = built(root / "dist", version)
        run(("git", "-C", str(root), "commit", "--quiet", "--message", f"Release {version}", "--", *changed))
    except BaseException:
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        raise
    run(("git", "-C", str(root), "tag", "--annotate", "--message", f"codexpool {version}", f"v{version}"))
    return files


def with_version(text: str, version: str) -> str:
    """Return the text of the package with its next version. Raises ReleaseError."""
    if (found := _VERSION.search(text)) is None:
        raise ReleaseError(f"{VERSION_FILE} has no version")
    if number(version) <= number(found[1]):
        raise ReleaseError(f"{version} does not come after {found[1]}")
    return f'{text[: found.start()]}__version__ = "{version}"{text[found.end() :]}'


def number(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise ReleaseError(f"{version!r} is no version: three numbers, such as 0.2.0")
    return tuple(map(int, version.split(".")))


def with_section(text: str, version: str, today: date) -> str:
    """Return the changelog with ``version`` in place of what is unreleased. Raises ReleaseError."""
    before, heading, after = text.partition(f"\n{UNRELEASED}\n")
    if not heading or not after.split("\n## ")[0].strip():
        raise ReleaseError(f"{CHANGELOG} has nothing under {UNRELEASED!r}: say what users notice")
    return f"{before}\n{UNRELEASED}\n\n## {version} - {today.isoformat()}\n{after}"


def require_clean(root: Path, version: str) -> None:
    """Raise ReleaseError if there are changes that are not committed, or if the tag exists."""
    if output(root, "status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed: git status")
    if output(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} exists")


def built(folder: Path, version: str) -> list[Path]:
    """Return wheel and sdist of a version. Raises ReleaseError unless both are there."""
    files = [folder / f"codexpool-{version}-py3-none-any.whl", folder / f"codexpool-{version}.tar.gz"]
    if missing := [path.name for path in files if not path.is_file()]:
        raise ReleaseError(f"{folder} lacks {', '.join(missing)}")
    return files


def output(root: Path, *arguments: str) -> str:
    run = subprocess.run(("git", "-C", str(root), *arguments), capture_output=True, text=True, check=False)
    if run.returncode:
        raise ReleaseError(f"git {arguments[0]}: {run.stderr.strip()}")
    return run.stdout.strip()


def run(command: Sequence[str]) -> None:
    """Run a command and show what it prints. Raises ReleaseError if it fails."""
    print(f"$ {' '.join(command)}", flush=True)
    try:
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
    except OSError as error:
        raise ReleaseError(f"{command[0]}: {error.strerror}") from None
    if code:
        raise ReleaseError(f"{' '.join(command)}: exit code {code}. Nothing was released")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
