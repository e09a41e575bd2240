"""Compare bare mitmdump, `mitmdump -s addon` and `codexpool run` in one go.

Every row is measured in rounds in which the sides take turns, and the medians are compared. The proxies have one
core, load and upstream share another one. Ratios come first: more than 1 is better than bare mitmdump.
docs/performance.md explains the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import own
from benchmarks.comparison import Comparison
from benchmarks.progress import clock
from benchmarks.report import as_document, as_markdown, as_text
from benchmarks.rows import FULL, SHORT, Size
from benchmarks.sides import COMPARED, BenchError
from codexpool.cli.processes import Children, InterruptedBySignal, Signals


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="measure everything roughly, in about two minutes")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="counted rounds of each row (5; short: 1)")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name contains PATTERN, which may have * and ?")
    parser.add_argument(
        "--sides",
        type=_sides,
        default=list(COMPARED),
        metavar="LIST",
        help=f"what to compare; ratios are to the first one ({','.join(COMPARED)})",
    )
    parser.add_argument(
        "--observed",
        action="store_true",
        help="compare the addon with itself while page, metrics and events are read",
    )
    parser.add_argument("--flow-detail", type=int, default=0, metavar="N", help="flow_detail of all proxies (0)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    shown.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _sides(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(COMPARED):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(map(repr, sorted(unknown)))}")
    if len(names) > len(set(names)):
        raise argparse.ArgumentTypeError("each side may be named once")
    return names


def main() -> int:
    """Run the benchmark; return the exit code: 1 after a failure, 2 for wrong usage (of argparse)."""
    options = parsed()
    if not sys.platform.startswith("linux"):
        print("the benchmark reads /proc and pins processes to cores: it needs Linux", file=sys.stderr)
        return 1
    size = SHORT if options.short else FULL
    size = Size(**{**vars(size), "rounds": options.rounds or size.rounds})
    with (
        tempfile.TemporaryDirectory(prefix="codexpool-bench-") as folder,
        Signals() as signals,
        Children(signals) as children,
    ):
        return run(Comparison(options, size, Path(folder), children))


def run(comparison: Comparison) -> int:
    """Run a comparison, and print what was measured, even if it fails or is interrupted."""
    options, report = comparison.options, comparison.report
    if comparison.is_empty:
        print(f"no row's name contains {options.only!r}", file=sys.stderr)
        return 2
    duration = clock(comparison.expected())
    print(f"this takes about {duration} (min:s); Ctrl-C prints what has been measured until then", file=sys.stderr)
    code = 0
    try:
        if options.only is None and not options.observed:
            with contextlib.redirect_stdout(sys.stderr if options.json or options.markdown else sys.stdout):
                own.report()
        asyncio.run(comparison.run())
    except InterruptedBySignal as signal:
        report.interrupted, code = True, int(str(signal.code))
    except BenchError as failure:
        comparison.progress.ends()
        print(f"error: {failure}", file=sys.stderr)
        report.interrupted, code = True, 1
    comparison.progress.ends()
    if options.json:
        print(json.dumps(as_document(report), indent=2))
    else:
        print(as_markdown(report) if options.markdown else as_text(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
