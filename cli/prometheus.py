"""What `stats` counts, as metrics for Prometheus' textfile collector: https://github.com/prometheus/node_exporter."""

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from neuron_store.cli import presentation
from neuron_store.cli.totals import Activity, RemoteTotals, Totals, group_of
from neuron_store.cli.written import write_whole
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.remotes.answers import ANSWERS
from neuron_store.store.usage import Usage

_PREFIX = "neuron_store_"
_QUANTILES = {"0.5": 0.5, "0.95": 0.95}


class _Metrics:
    """A collector of what was read; see prometheus_client's `Collector`."""

    def __init__(self, activity: Activity, usage: Usage, queues: list[dict[str, Any]]) -> None:
        self._activity = activity
        self._usage = usage
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from _of_events(self._activity.total)
        yield from _of_remotes(self._activity.remotes)
        usage = self._usage
        yield _gauge("results", "Results in the local store.", usage.results)
        yield _gauge("blobs", "Blobs in the local store.", usage.blobs)
        yield _gauge("bytes", "Bytes that the local store takes on disk.", usage.bytes)
        yield from _of_queues(self._queues)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value)


def _of_events(totals: Totals) -> Iterator[Metric]:
    events = CounterMetricFamily(_PREFIX + "events", "Events by counter and by its group.", labels=["group", "counter"])
    for counter, count in totals.counters.items():
        events.add_metric([group_of(counter), counter], count)
    yield events
    seconds = CounterMetricFamily(
        _PREFIX + "compile_seconds", "Seconds of compile that hits saved or misses took.", labels=["kind"]
    )
    seconds.add_metric(["saved"], totals.seconds_saved)
    seconds.add_metric(["spent"], totals.seconds_compiled)
    yield seconds
    moved = CounterMetricFamily(_PREFIX + "moved_bytes", "Bytes that were moved, by where to.", labels=["kind"])
    moved.add_metric(["delivered"], totals.bytes_delivered)
    moved.add_metric(["fetched"], totals.bytes_fetched)
    moved.add_metric(["uploaded"], totals.bytes_uploaded)
    yield moved


def _of_remotes(remotes: dict[str, RemoteTotals]) -> Iterator[Metric]:
    answers = CounterMetricFamily(_PREFIX + "remote_answers", "What remotes answered.", labels=["remote", "answer"])
    latency = GaugeMetricFamily(
        _PREFIX + "remote_latency_seconds", "Seconds until a remote's answer was clear.", labels=["remote", "quantile"]
    )
    for url, remote in remotes.items():
        for answer in ANSWERS:
            answers.add_metric([url, answer], remote.answers[answer])
        for name, share in _QUANTILES.items():
            seconds = remote.percentile(share)
            if seconds is not None:
                latency.add_metric([url, name], seconds)
    yield answers
    yield latency


def _of_queues(queues: list[dict[str, Any]]) -> Iterator[Metric]:
    queued = GaugeMetricFamily(_PREFIX + "queued_results", "Results that wait for upload.", labels=["remote"])
    oldest = GaugeMetricFamily(
        _PREFIX + "oldest_queued_timestamp_seconds", "Since when the oldest waits, Unix seconds.", labels=["remote"]
    )
    refused = GaugeMetricFamily(_PREFIX + "upload_refused", "1: the remote takes nothing from us.", labels=["remote"])
    for queue in queues:
        queued.add_metric([queue["url"]], queue["queued"])
        refused.add_metric([queue["url"]], 1 if queue["refused"] else 0)
        if queue["oldest"]:
            oldest.add_metric([queue["url"]], queue["oldest"])
    yield from (queued, oldest, refused)


def export_metrics(file: str, activity: Activity, usage: Usage, queues: list[dict[str, Any]]) -> None:
    """Write the metrics to `file`, whole or not at all; "-" is stdout.

    Raises ConfigurationError where it cannot be written.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(activity, usage, queues))
    if file == "-":
        presentation.write(generate_latest(registry).decode())
        return
    try:
        write_whole(file, generate_latest(registry))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"--prometheus {os.path.abspath(file)}: {reason}; give a file in a folder that exists and is yours to write"
        ) from error
