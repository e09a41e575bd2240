"""Metric families of `prometheus_client`, and their text.

The library is slow to import, and most proxies are never scrape: it is imported with the first scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Final

from codexpool.traces.counts import BOUNDS, Buckets

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

    Family = CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily

LIBRARY: Final = "prometheus_client"

AT_ONCE: Final = 100
"""Samples in one piece of a family, so that encoding a piece takes a millisecond or two."""

OPEN_METRICS: Final = "application/openmetrics-text"
END: Final = b"# EOF\n"

Row = tuple[Sequence[str], Any]
"""The label values of a sample, and its number (or {} for an info metric)."""


def gauge(name: str, text: str, value: float) -> Iterator[Metric]:
    return gauges(name, text, (), [((), float(value))])


def gauges(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    return _in_pieces(lambda: GaugeMetricFamily(name, text, labels=labels, unit=_unit(name)), rows)


def counter(name: str, text: str, value: float) -> Iterator[Metric]:
    return counters(name, text, (), [((), value)])


def counters(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    unit = _unit(name.removesuffix("_total"))
    return _in_pieces(lambda: CounterMetricFamily(name, text, labels=labels, unit=unit), rows)


def infos(name: str, text: str, labels: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    base = name.removesuffix("_info")
    return _in_pieces(lambda: InfoMetricFamily(base, text, labels=labels), ((row, {}) for row in rows))


def histogram(name: str, text: str, buckets: Buckets) -> Metric:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    counts = list(zip(map(floatToGoString, BOUNDS), accumulate(buckets.counts), strict=True))
    return HistogramMetricFamily(name, text, counts, buckets.sum, unit=_unit(name))


def encode_all(families: Iterable[Metric], accept: str) -> tuple[Iterator[bytes], str]:
    """Return the text of the metrics in pieces, in the format an ``Accept`` header asks for, and its content type.

    Consecutive families of one name are pieces of one family.
    """
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except Exception:  # The library raises on a malformed Accept header.
        encode, content_type = choose_encoder("")
    return _encoded(families, encode, content_type.startswith(OPEN_METRICS)), content_type


def _encoded(families: Iterable[Metric], encode: Callable[[Any], bytes], is_open: bool) -> Iterator[bytes]:
    last = ""
    for family in families:
        text = encode(_Only(family))
        if is_open:
            text = text.removesuffix(END)
        yield text if family.name != last else _without_head(text)
        last = family.name
    if is_open:
        yield END


class _Only:
    """A collector of one family, which is what encoders take."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def _without_head(text: bytes) -> bytes:
    """Remove HELP and TYPE lines from a further piece of a family."""
    return b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"#"))


def _in_pieces(make: Callable[[], Family], rows: Iterable[Row]) -> Iterator[Metric]:
    """Split a family into several of the same name, with at most ``AT_ONCE`` samples each."""
    remaining = iter(rows)
    some = list(islice(remaining, AT_ONCE))
    while True:
        family = make()
        for labels, value in some:
            family.add_metric(labels, value)
        yield family
        if not (some := list(islice(remaining, AT_ONCE))):
            return


def _unit(name: str) -> str:
    """Return the unit at the end of a name; OpenMetrics wants it separately."""
    last = name.rpartition("_")[2]
    return last if last in ("seconds", "bytes", "ratio") else ""
