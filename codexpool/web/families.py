"""Families of metrics as `prometheus_client` has them, and their text.

That library is imported when somebody asks for metrics: it takes its time, and most never do.
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
"""Samples in one piece of a family."""

OPEN_METRICS: Final = "application/openmetrics-text"
END: Final = b"# EOF\n"

Row = tuple[Sequence[str], Any]
"""The values of the labels of a sample, and its own: a number, or nothing more for what only has labels."""


def gauge(name: str, text: str, value: float) -> Metric:
    """A number that goes up and down."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, float(value), unit=_unit(name))


def gauges(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    """Several of them."""
    from prometheus_client.core import GaugeMetricFamily

    unit = _unit(name)
    return _in_pieces(lambda: GaugeMetricFamily(name, text, labels=labels, unit=unit), rows)


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only grows."""
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(name, text, value, unit=_unit(name.removesuffix("_total")))


def counters(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    """Several of them."""
    from prometheus_client.core import CounterMetricFamily

    return _in_pieces(lambda: CounterMetricFamily(name, text, labels=labels), rows)


def infos(name: str, text: str, labels: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[Metric]:
    """What is only said with labels."""
    from prometheus_client.core import InfoMetricFamily

    return _in_pieces(
        lambda: InfoMetricFamily(name.removesuffix("_info"), text, labels=labels), ((row, {}) for row in rows)
    )


def histogram(name: str, text: str, buckets: Buckets) -> Metric:
    """How often something took how long."""
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    counts = list(zip(map(floatToGoString, BOUNDS), accumulate(buckets.counts), strict=True))
    return HistogramMetricFamily(name, text, counts, buckets.sum, unit=_unit(name))


def exposed(families: Iterable[Metric], accept: str) -> tuple[Iterator[bytes], str]:
    """The text of families in pieces, in the format that an ``Accept`` header asks for, and its content type.

    Those of the same name follow each other, and are one family.
    """
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except Exception:  # A header that only looks like one.
        encode, content_type = choose_encoder("")
    is_open = content_type.startswith(OPEN_METRICS)

    def pieces() -> Iterator[bytes]:
        last = ""
        for family in families:
            text = encode(_Only(family))
            if is_open:
                text = text.removesuffix(END)
            yield text if family.name != last else _without_head(text)
            last = family.name
        if is_open:
            yield END

    return pieces(), content_type


class _Only:
    """A collector of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def _without_head(text: bytes) -> bytes:
    """The samples alone, where those before them are of the same family."""
    return b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"#"))


def _in_pieces(make: Callable[[], Family], rows: Iterable[Row]) -> Iterator[Metric]:
    """A family as several of the same name, of which none has many samples."""
    left_over = iter(rows)
    some = list(islice(left_over, AT_ONCE))
    while True:
        family = make()
        for labels, value in some:
            family.add_metric(labels, value)
        yield family
        if not (some := list(islice(left_over, AT_ONCE))):
            return


def _unit(name: str) -> str:
    """The unit that a name ends with, as OpenMetrics says it apart."""
    last = name.rpartition("_")[2]
    return last if last in ("seconds", "bytes", "ratio") else ""
