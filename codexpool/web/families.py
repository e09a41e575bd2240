"""Metric families of `prometheus_client`, and their text.

The library is slow to import, and most proxies are never scraped: it is imported with the first scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from codexpool.traces.counts import BOUNDS, Buckets

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LIBRARY: Final = "prometheus_client"

AT_ONCE: Final = 100  # samples in one piece of a family, so that encoding a piece takes a millisecond or two

OPEN_METRICS: Final = "application/openmetrics-text"
END: Final = b"# EOF\n"

Row = tuple[Sequence[str], Any]
"""The label values of a sample, and its number (or {} for an info metric)."""


def metric(name: str, text: str, value: float | Iterable[Row], labels: Sequence[str] = ()) -> Iterator[Metric]:
    """Yield a metric, in pieces of ``AT_ONCE`` samples. Its name tells whether it is a counter, an info or a gauge.

    With ``labels``, ``value`` has a row for each sample.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    remaining = iter([((), float(value))] if isinstance(value, int | float) else value)
    base = name.removesuffix("_total").removesuffix("_info")
    some = list(islice(remaining, AT_ONCE))
    while True:
        family: CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily
        if name.endswith("_info"):
            family = InfoMetricFamily(base, text, labels=labels)
        else:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(base, text, labels=labels, unit=_unit(base))
        for values, number in some:
            family.add_metric(values, number)
        yield family
        if not (some := list(islice(remaining, AT_ONCE))):
            return


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
        text = encode(SimpleNamespace(collect=lambda family=family: [family]))
        if is_open:
            text = text.removesuffix(END)
        yield text if family.name != last else _without_head(text)
        last = family.name
    if is_open:
        yield END


def _without_head(text: bytes) -> bytes:
    """Remove HELP and TYPE lines from a further piece of a family."""
    return b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"#"))


def _unit(name: str) -> str:
    """Return the unit at the end of a name; OpenMetrics wants it separately."""
    last = name.rpartition("_")[2]
    return last if last in ("seconds", "bytes", "ratio") else ""
