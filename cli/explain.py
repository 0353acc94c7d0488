"""`neuron-store explain`: why a compile was not served, by what differs from the nearest result that is recorded."""

import os
import string
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of, readable_store
from neuron_store.cli.explanation import Explanation, compare
from neuron_store.cli.inquiry import Inquiry, served_result
from neuron_store.cli.keys import CONTEXT, passed
from neuron_store.cli.nearest import nearest_result
from neuron_store.cli.sides import Side, side_of_inquiry, side_of_result
from neuron_store.cli.totals import group_of
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.counters import COUNTERS, HIT, MISS
from neuron_store.store.errors import AmbiguousKey, CorruptEntry, NotFound
from neuron_store.store.events import Event
from neuron_store.store.layout import Layout
from neuron_store.store.results import find_key, load_result

_STORED = "miss_stored"


class Report:
    """What `explain` says.

    Attributes:
        facts: (title, text) of what is known before anything is compared.
        explanation: what differs from the nearest result, if there is one to compare with.
        values: the same for JSON.
        notes: what else decides how the shim would serve it.
    """

    def __init__(self) -> None:
        self.facts: list[tuple[str, str]] = []
        self.explanation: Explanation | None = None
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []

    def tell(self, title: str, text: str, **values: Any) -> None:  # noqa: ANN401 - any JSON
        """Add a fact, in words and as values."""
        self.facts.append((title, text))
        self.values.update(values)

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        found = self.explanation
        if as_json:
            self.values["differences"] = [
                {"component": name, "text": text} for name, text in (found.differences if found else [])
            ]
            self.values["equal_components"] = found.equal if found else []
            self.values["hlo"] = found.hlo.as_dict() if found and found.hlo else None
            presentation.print_json({**self.values, "notes": self.notes})
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        rows = [*self.facts]
        if found:
            rows += [("equal", ", ".join(found.equal) or "nothing"), *found.differences]
        before = ""
        for title, text in rows:
            table.add_row(Text("" if title == before else title, style="bold"), text)
            before = title
        presentation.print_table(table)
        for note in self.notes:
            presentation.remark(note)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("explain", context_settings=CONTEXT)(explain)


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY | -- COMMAND]",
            help="A key or its first digits, or a command line (neuronx-cc compile …); by default the last miss.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what differs from the nearest result in the store: for the last miss, a result, or a command line."""
    layout = readable_store()
    if not words:
        report = _explain_last_miss(layout)
    elif _is_key(words):
        report = _explain_key(layout, words)
    else:
        report = _explain_command(layout, words)
    report.show(as_json=as_json)


def _is_key(words: list[str]) -> bool:
    """Tell a key from a command line, whose words are no hex numbers; a single word is meant as a key, mostly."""
    if all(digit in string.hexdigits for digit in words[0]):
        return True
    return len(words) == 1 and words[0] != "compile" and not {"-", "/", "@"}.intersection(words[0])


# -- what is explained ---------------------------------------------------------------------------------------


def _explain_last_miss(layout: Layout) -> Report:
    events = events_of(layout)
    misses = [event for event in events if group_of(event.outcome) == MISS]
    if not misses:
        raise NotFound(f"there was no miss in {layout.root} yet; give a key, or a command line after --")
    last = max(misses, key=lambda event: event.time)
    key = last.fields.get("key", "")
    report = Report()
    report.tell("last miss", _describe_miss(last), kind="miss", key=key, outcome=last.outcome, time=last.time)
    for incident in last.incidents:
        report.tell("incident", f"{incident}: {_meaning(incident)}")
    report.values["incidents"] = last.incidents
    if _tell_earlier(report, [event for event in events if event is not last and event.time <= last.time], last):
        return report
    if not key or not os.path.exists(layout.result_path(key)):
        raise NotFound(
            f"the last miss, {_describe_miss(last)}, has no result in the store, so what it was made of is not recorded; "
            "give its command line: neuron-store explain -- neuronx-cc compile …"
        )
    _compare_result(layout, key, report)
    return report


def _describe_miss(event: Event) -> str:
    module = event.fields.get("module", "a module without a name")
    return f"{module}, {presentation.age(event.time)} ago: {event.outcome} ({_meaning(event.outcome)})"


def _meaning(counter: str) -> str:
    return COUNTERS[counter][1] if counter in COUNTERS else "counted by another version of neuron-store"


def _tell_earlier(report: Report, events: list[Event], miss: "Event | None", key: str = "") -> bool:
    """Tell, from the log's `events`, that the key of a miss (or `key`) was in the store before, if it was."""
    key = miss.fields.get("key", "") if miss else key
    times = [event.time for event in events if key and event.fields.get("key") == key and _proves_stored(event)]
    if not times:
        return False
    said = f"no input differs: the same key was in the store {presentation.age(max(times))} ago"
    if miss is None:
        said += ". Since then its result was removed, or found damaged and removed; the log does not tell which"
    elif max(times) < miss.time - (miss.seconds or 0.0):
        said += ". Since then its result was removed or damaged, or recache was set; the log does not tell which"
    else:
        said += ", stored by another process while this one compiled"
    report.tell("reason", said, last_in_store=max(times))
    return True


def _proves_stored(event: Event) -> bool:
    return event.outcome == _STORED or group_of(event.outcome) == HIT


def _explain_key(layout: Layout, words: list[str]) -> Report:
    if len(words) > 1:
        raise NotFound(f"{' '.join(words)!r}: give one key, or a command line after --")
    try:
        key = find_key(layout, words[0].lower())
    except AmbiguousKey as error:
        raise NotFound(str(error)) from error
    report = Report()
    report.values["kind"] = "result"
    _compare_result(layout, key, report)
    return report


def _compare_result(layout: Layout, key: str, report: Report) -> None:
    try:
        result = load_result(layout, key)
        if result is None:
            raise NotFound(f"the result {key} is gone from {layout.root}")
        side = side_of_result(layout, result)
    except CorruptEntry as error:
        raise NotFound(f"the result {key} cannot be read: {error}") from error
    report.tell("result", _describe(side), key=key, module=side.module, created=side.created)
    _compare_nearest(layout, side, report)


def _explain_command(layout: Layout, words: list[str]) -> Report:
    inquiry = Inquiry(words)
    report = Report()
    report.values["kind"] = "command"
    try:
        inquiry.prepare()
        if _tell_direct_hit(inquiry, report):
            return report
        canonical = inquiry.canonical()
    except NotCacheable as answer:
        reason = passed(answer)
        text = f"{reason['counter']}: {reason['meaning']}" + (f" ({answer.detail})" if answer.detail else "")
        report.tell("passes through", text, outcome=reason["counter"], **reason)
        return report
    finally:
        report.notes = inquiry.notes
    side = side_of_inquiry(inquiry, canonical)
    result, damage = served_result(layout, canonical.key)
    if result is not None:
        text = "by the canonical key (the store has no direct entry for exactly these inputs)"
        report.tell("hit", f"{canonical.key}\n{text}", outcome="hit_canonical", key=canonical.key)
        return report
    report.tell("miss", f"{canonical.key}, {side.module}", outcome="miss", key=canonical.key, module=side.module)
    if damage:
        report.tell("reason", f"no input differs: {damage}", damage=damage)
    elif not _tell_earlier(report, events_of(layout), None, canonical.key):
        _compare_nearest(layout, side, report)
    return report


def _tell_direct_hit(inquiry: Inquiry, report: Report) -> bool:
    entry = inquiry.direct_entry()
    if entry is None or served_result(inquiry.layout, entry.key)[0] is None:
        return False
    text = "by the direct key (the same bytes, options, environment and compiler)"
    report.tell("hit", f"{entry.key}\n{text}", outcome="hit_direct", key=entry.key)
    return True


# -- what it is compared with --------------------------------------------------------------------------------


def _compare_nearest(layout: Layout, side: Side, report: Report) -> None:
    nearest, unread = nearest_result(layout, side)
    left_out = f"left out {presentation.plural(unread, 'damaged record')}" if unread else ""
    if nearest is None:
        other = "other " if side.created else ""
        raise NotFound(
            f"there is no {other}result in {layout.root} that {side.name} could be compared with"
            + (f" ({left_out})" if left_out else "")
        )
    if left_out:
        report.notes.append(left_out)
    report.explanation = compare(side, nearest)
    report.tell("nearest", _describe(nearest))
    report.values["nearest"] = {"key": nearest.key, "module": nearest.module, "created": nearest.created}


def _describe(side: Side) -> str:
    made = f", compiled {presentation.age(side.created)} ago" if side.created else ""
    return f"{side.key[: presentation.SHOWN_KEY]}  {side.module or 'a module without a name'}{made}"
