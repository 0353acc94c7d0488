"""The report as one page of HTML that needs nothing else: no script, no network, no font."""

import importlib.resources
import time
from collections.abc import Iterable
from typing import Any

import jinja2
from markupsafe import Markup

from neuron_store.cli import presentation
from neuron_store.cli.reporting.charts import as_svg, available
from neuron_store.cli.reporting.facts import REASONS, Facts, short_root
from neuron_store.cli.totals import RemoteTotals, Totals, group_of
from neuron_store.shim.counters import COUNTERS, ERROR, MISS, PASS
from neuron_store.shim.version import VERSION
from neuron_store.store.remotes.answers import ERROR as FAILED
from neuron_store.store.remotes.answers import HIT, SKIPPED
from neuron_store.store.remotes.answers import MISS as LACKING

_MOST_ROWS = 30  # of a table


def as_html(facts: Facts) -> str:
    """Return the page."""
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    total = facts.activity.total
    return environment.from_string(template).render(
        saved=presentation.duration(total.seconds_saved),
        root=presentation.printable(short_root(facts.root)),
        period=f"since {_date(facts.since)}" if facts.since else "over all that is recorded",
        made=_date(facts.made),
        version=VERSION,
        cards=_cards(facts),
        charts=[
            {"name": name, "title": title, "said": _said(name, facts), "svg": Markup(as_svg(facts, draw))}  # noqa: S704 - matplotlib escapes its texts
            for name, (title, draw) in available(facts).items()
        ],
        tables=[table for table in _tables(facts) if table["rows"]],
        misses=[_miss(miss) for miss in facts.misses],
    )


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _cards(facts: Facts) -> list[dict[str, str]]:
    total, usage = facts.activity.total, facts.usage
    unknown = presentation.plural(total.seconds_unknown, "hit") + " of unknown seconds left out"
    return [
        _card("time saved", presentation.duration(total.seconds_saved), unknown if total.seconds_unknown else ""),
        _card(
            "time compiled",
            presentation.duration(total.seconds_compiled),
            presentation.plural(total.misses, "miss", "misses"),
        ),
        _card(
            "hit rate",
            _rate(total),
            f"{presentation.number(total.hits)} of {presentation.plural(total.hits + total.misses, 'request')}",
        ),
        _card("fetched", presentation.size(total.bytes_fetched), f"{presentation.size(total.bytes_uploaded)} uploaded"),
        _card("store", presentation.size(usage.bytes), presentation.plural(usage.results, "result")),
    ]


def _card(title: str, value: str, more: str) -> dict[str, str]:
    return {"title": title, "value": value, "more": more}


def _rate(totals: Totals) -> str:
    return "-" if totals.hit_rate is None else f"{totals.hit_rate:.1%}"


def _said(name: str, facts: Facts) -> str:
    """Say a chart's content in words, for who does not see it."""
    total = facts.activity.total
    if name == "growth":
        return f"{presentation.plural(sum(count for count, _ in facts.growth.values()), 'result')} in the store."
    if name == "slowest":
        return (
            f"The slowest took {presentation.duration(facts.slowest[0].seconds)}. The table of that name has them all."
        )
    if name == "models-saved":
        named = {model: totals.seconds_saved for model, totals in facts.activity.by["model"].items() if model}
        said = [f"{model}: {presentation.duration(seconds)}." for model, seconds in named.items() if seconds]
        return presentation.printable(" ".join(said))
    if name == "reasons":
        return " ".join(f"{REASONS[reason]}: {count}." for reason, count in facts.reasons.most_common())
    if name == "rate":
        return f"{_rate(total)} over all. The table by day has each."
    saved, spent = presentation.duration(total.seconds_saved), presentation.duration(total.seconds_compiled)
    return f"{saved} saved and {spent} spent over all. The table by day has each."


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(facts: Facts) -> "list[dict[str, Any]]":
    by = facts.activity.by
    return [
        _slowest(facts),
        _reasons(facts),
        _models(facts),
        _remotes(facts.activity.remotes),
        _by("by-day", "By day", "day", sorted(by["day"].items(), reverse=True)),
        _by("by-compiler", "By compiler", "compiler", _largest(by["compiler"])),
        _by("by-host", "By host", "host", _largest(by["host"])),
    ]


def _table(name: str, title: str, columns: str, rows: "list[list[str]]", note: str = "") -> "dict[str, Any]":
    """`columns` are separated by bars; one that begins with # is of numbers."""
    titles = [{"title": column.lstrip("#"), "number": column.startswith("#")} for column in columns.split("|")]
    if len(rows) > _MOST_ROWS:
        note = f"{note} The first {_MOST_ROWS} of {presentation.number(len(rows))}.".strip()
    return {"name": name, "title": title, "columns": titles, "rows": rows[:_MOST_ROWS], "note": note}


def _slowest(facts: Facts) -> "dict[str, Any]":
    rows = [
        [
            presentation.printable(result.module or result.key[:12]),
            presentation.printable(", ".join(result.models) or "-"),
            presentation.printable(result.compiler.partition("+")[0]),
            presentation.duration(result.seconds),
            presentation.number(result.hits),
            presentation.duration(result.saved),
            presentation.size(result.size),
        ]
        for result in facts.slowest
    ]
    return _table(
        "slowest-subgraphs", "The slowest subgraphs", "module|model|compiler|#compile|#hits|#saved|#size", rows
    )


def _reasons(facts: Facts) -> "dict[str, Any]":
    counts = facts.activity.total.counters
    rows = []
    for counter in sorted(counts, key=lambda name: -counts[name]):
        group = group_of(counter)
        if counts[counter] and group in (MISS, PASS, ERROR):
            meaning = COUNTERS[counter][1] if counter in COUNTERS else "counted by another version of neuron-store"
            kind = {MISS: "miss", PASS: "passed through", ERROR: "error"}[group]
            rows.append([kind, counter, meaning, presentation.number(counts[counter])])
    return _table("reasons-table", "What was not served, by reason", "kind|counter|meaning|#count", rows)


def _models(facts: Facts) -> "dict[str, Any]":
    rows = [
        [
            presentation.printable(model.name),
            f"{presentation.number(model.here)} of {presentation.number(model.needed)}",
            presentation.duration(model.seconds),
            presentation.number(model.hits),
            presentation.size(model.size),
        ]
        for model in facts.models
    ]
    note = "The keys that runs of a model asked for, how many of them are here, and what compiling these took."
    return _table("models", "Models and what they need", "model|#keys here|#compile|#hits|#size", rows, note)


def _remotes(remotes: "dict[str, RemoteTotals]") -> "dict[str, Any]":
    rows = [
        [
            presentation.printable(url),
            *[presentation.number(remote.answers[answer]) for answer in (HIT, LACKING, FAILED, SKIPPED)],
            *[_seconds(remote.percentile(share)) for share in (0.5, 0.95)],
        ]
        for url, remote in sorted(remotes.items())
    ]
    return _table("remotes", "Remotes", "remote|#hits|#misses|#errors|#skipped|#median|#p95", rows)


def _seconds(seconds: "float | None") -> str:
    return "-" if seconds is None else presentation.duration(seconds)


def _largest(totals: "dict[str, Totals]") -> "list[tuple[str, Totals]]":
    return sorted(totals.items(), key=lambda pair: -pair[1].invocations)


def _by(name: str, title: str, dimension: str, parts: "Iterable[tuple[str, Totals]]") -> "dict[str, Any]":
    rows = [
        [
            presentation.printable(value) or "(not told)",
            presentation.number(totals.hits),
            presentation.number(totals.misses),
            presentation.number(totals.passed),
            _rate(totals),
            presentation.duration(totals.seconds_saved),
            presentation.duration(totals.seconds_compiled),
        ]
        for value, totals in parts
        if totals.invocations
    ]
    return _table(name, title, f"{dimension}|#hits|#misses|#passed|#hit rate|#saved|#compiled", rows)


def _miss(miss: Any) -> "dict[str, Any]":  # noqa: ANN401 - a Miss
    took = presentation.duration(miss.event.seconds) if miss.event.seconds is not None else "of unknown length"
    return {
        "module": presentation.printable(miss.event.fields.get("module", "a module without a name")),
        "when": _date(miss.event.time),
        "took": f"{took} of compile",
        "reason": REASONS[miss.reason],
        "nearest": presentation.printable(miss.nearest),
        "lines": [presentation.printable(line) for line in miss.lines],
    }
