"""The report's charts, drawn by matplotlib: as SVG that takes its colours from the page, or in one PNG."""

import datetime
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure

from neuron_store.cli import presentation
from neuron_store.cli.reporting.facts import REASONS, Facts
from neuron_store.cli.totals import Totals
from neuron_store.shim.counters import COUNTERS

# Colours that stand for the page's own until the SVG is written; see page.html.
_VARIABLES = {"#010203": "var(--ink)", "#020304": "var(--line)", "#030405": "var(--saved)", "#040506": "var(--spent)"}
_PRINTED = {"ink": "#1d2327", "line": "#c9ced2", "saved": "#1f8a70", "spent": "#c2571a"}
_STANDING = dict(zip(_PRINTED, _VARIABLES, strict=True))
_MOST_BARS = 45
_MOST_LYING = 8
_SIZE = (5.4, 2.9)  # inches: at the width of a phone, text is as large as the page's
_LONGEST_NAME = 34  # characters

# Fonts of many scripts, as they come with systems: those that are here draw in a picture what matplotlib's own lacks.
_MORE_FONTS = (
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Source Han Sans",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "IPAGothic",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Unifont",
)

Colours = dict[str, str]


def available(facts: Facts) -> "dict[str, tuple[str, Callable[[Any, Facts, Colours], None]]]":
    """Return name -> (title, how it is drawn) of the charts that there is something to draw in."""
    charts: dict[str, tuple[str, Callable[[Any, Facts, Colours], None]]] = {}
    days = facts.activity.by["day"].values()
    if any(totals.seconds_saved or totals.seconds_compiled for totals in days):
        charts["time"] = ("Compile time, saved and spent", _draw_time)
    if any(totals.hit_rate is not None for totals in days):
        charts["rate"] = ("Hit rate", _draw_rate)
    if facts.growth:
        charts["growth"] = ("What the store holds, by when it was stored", _draw_growth)
    if any(result.seconds for result in facts.slowest):
        charts["slowest"] = ("The slowest subgraphs", _draw_slowest)
    if any(name and totals.seconds_saved for name, totals in facts.activity.by["model"].items()):
        charts["models-saved"] = ("Compile time saved, by model", _draw_models)
    if facts.reasons:
        charts["reasons"] = ("Why the latest misses were none of the results", _draw_reasons)
    return charts


def as_svg(facts: Facts, draw: "Callable[[Any, Facts, Colours], None]") -> str:
    """Return a chart as an SVG element whose colours and font are the page's."""
    # Texts stay texts: the browser finds a font for each letter.
    with _settings({"svg.fonttype": "none", "svg.hashsalt": "neuron-store", "font.size": 12}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_alpha(0)
        _draw(figure.add_subplot(), facts, draw, _STANDING)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)


def as_png(facts: Facts) -> bytes:
    """Return one picture with the numbers that count and all charts."""
    charts = available(facts)
    rows = -(-len(charts) // 2)
    with _settings({"font.size": 10, "font.family": ["DejaVu Sans", *_more_fonts()]}):
        figure = Figure(figsize=(11, 1.2 + 3.4 * rows), layout="constrained", facecolor="white")
        figure.suptitle(_headline(facts), fontsize=13, color=_PRINTED["ink"])
        for place, (title, draw) in enumerate(charts.values()):
            axes = figure.add_subplot(rows, 2, place + 1)
            _draw(axes, facts, draw, _PRINTED)
            axes.set_title(title, loc="left", fontsize=11, color=_PRINTED["ink"])
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


@contextmanager
def _settings(values: "dict[str, Any]") -> "Iterator[None]":
    """Let matplotlib work with these settings, and say nothing of letters that no font has: they become boxes."""
    with warnings.catch_warnings(), mpl.rc_context(values):
        warnings.filterwarnings("ignore", r"Glyph \d+ ")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively")
        yield


def _more_fonts() -> "list[str]":
    here = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _MORE_FONTS if name in here]


def _headline(facts: Facts) -> str:
    total = facts.activity.total
    rate = "no cacheable request" if total.hit_rate is None else f"{total.hit_rate:.1%} hits"
    return (
        f"neuron-store: {presentation.duration(total.seconds_saved)} of compile time saved, {rate}, "
        f"{presentation.plural(facts.usage.results, 'result')}"
    )


def _draw(axes: Any, facts: Facts, draw: "Callable[[Any, Facts, Colours], None]", colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    axes.patch.set_alpha(0)
    draw(axes, facts, colours)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours["line"])
    axes.tick_params(colors=colours["line"], labelcolor=colours["ink"])
    legend = axes.get_legend()
    if legend is not None:
        legend.get_frame().set_alpha(0)
        for text in legend.get_texts():
            text.set_color(colours["ink"])


# -- over time ---------------------------------------------------------------------------------------------------------


def _spans(days: "list[str]") -> "list[tuple[str, list[str]]]":
    """Return each span of time with a bar of its own, and its days: one day, or as many as there is room for."""
    first, last = (datetime.date.fromisoformat(day) for day in (days[0], days[-1]))
    length = -(-((last - first).days + 1) // _MOST_BARS)
    spans = []
    for start in range(0, (last - first).days + 1, length):
        span = [(first + datetime.timedelta(start + day)).isoformat() for day in range(length)]
        spans.append((span[0], span))
    return spans


def _label_days(axes: Any, starts: "list[str]") -> None:  # noqa: ANN401 - matplotlib's
    step = -(-len(starts) // 5)
    dates = [datetime.date.fromisoformat(start) for start in starts]
    axes.set_xticks(range(0, len(starts), step), [f"{date.day} {date:%b}" for date in dates[::step]])
    axes.set_xlim(-0.6, len(starts) - 0.4)


def _by_span(facts: Facts) -> "dict[str, list[Totals]]":
    by_day = {day: totals for day, totals in facts.activity.by["day"].items() if totals.invocations}
    spans = _spans(sorted(by_day))
    return {start: [by_day[day] for day in days if day in by_day] for start, days in spans}


def _draw_time(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    spans = _by_span(facts)
    places = range(len(spans))
    unit, name = _unit(max(sum(t.seconds_saved + t.seconds_compiled for t in parts) for parts in spans.values()))
    saved = [sum(totals.seconds_saved for totals in parts) / unit for parts in spans.values()]
    spent = [sum(totals.seconds_compiled for totals in parts) / unit for parts in spans.values()]
    axes.bar(places, saved, color=colours["saved"], label="saved by hits")
    axes.bar(places, spent, bottom=saved, color=colours["spent"], label="spent on misses")
    axes.set_ylabel(name, color=colours["ink"])
    axes.set_ylim(0, max(map(sum, zip(saved, spent, strict=True))) * 1.25)
    axes.legend(loc="upper left", ncols=2)
    _label_days(axes, list(spans))


def _unit(seconds: float) -> tuple[float, str]:
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, name
    return 1.0, "seconds"


def _draw_rate(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    spans = _by_span(facts)
    rates = []
    for parts in spans.values():
        hits, asked = sum(t.hits for t in parts), sum(t.hits + t.misses for t in parts)
        rates.append(100 * hits / asked if asked else float("nan"))
    axes.plot(range(len(spans)), rates, color=colours["saved"], marker="o", markersize=4)
    axes.set_ylim(0, 105)
    axes.set_ylabel("% of cacheable requests", color=colours["ink"])
    axes.grid(axis="y", color=colours["line"], alpha=0.5)
    _label_days(axes, list(spans))


def _draw_growth(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    spans = _spans(list(facts.growth))
    sizes = [sum(facts.growth.get(day, (0, 0))[1] for day in days) for _, days in spans]
    totals = list(itertools.accumulate(sizes))
    unit, name = next(
        (pair for pair in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if totals[-1] >= pair[0]),
        (1.0, "bytes"),
    )
    axes.bar(range(len(spans)), [total / unit for total in totals], color=colours["saved"], alpha=0.6)
    axes.set_ylim(0, totals[-1] / unit * 1.15 or 1)
    axes.set_ylabel(f"{name} of outputs", color=colours["ink"])
    _label_days(axes, [start for start, _ in spans])


# -- by name -----------------------------------------------------------------------------------------------------------


def _draw_slowest(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    slowest = [result for result in facts.slowest if result.seconds][:_MOST_LYING]
    _draw_bars(
        axes,
        [_short(result.module or result.key[:12]) for result in slowest],
        [result.seconds or 0.0 for result in slowest],
        [presentation.duration(result.seconds) for result in slowest],
        colours,
    )


def _draw_models(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    saved = {name or "(not told)": totals.seconds_saved for name, totals in facts.activity.by["model"].items()}
    most = sorted(((seconds, name) for name, seconds in saved.items() if seconds), reverse=True)[:_MOST_LYING]
    names, times = [_short(name) for _, name in most], [seconds for seconds, _ in most]
    _draw_bars(axes, names, times, [presentation.duration(seconds) for seconds in times], colours, "saved")


def _draw_reasons(axes: Any, facts: Facts, colours: Colours) -> None:  # noqa: ANN401 - matplotlib's
    reasons = facts.reasons.most_common()
    names = [_short(REASONS.get(reason) or COUNTERS.get(reason, ("", reason))[1]) for reason, _ in reasons]
    counts = [count for _, count in reasons]
    _draw_bars(axes, names, counts, [presentation.number(count) for count in counts], colours)


def _draw_bars(
    axes: Any,  # noqa: ANN401 - matplotlib's
    names: "list[str]",
    values: "Sequence[float]",
    said: "list[str]",
    colours: Colours,
    colour: str = "spent",
) -> None:
    """Bars that lie, each with its name above it: names are long, and a phone is narrow."""
    places = range(len(values))
    axes.barh(places, values, height=0.42, color=colours[colour])
    for place, (name, text, value) in enumerate(zip(names, said, values, strict=True)):
        axes.text(0, place - 0.26, f" {name}", va="bottom", ha="left", fontsize=10, color=colours["ink"])
        aside = {"xytext": (4, 0), "textcoords": "offset points"}  # a blank would be lost in an SVG
        axes.annotate(text, (value, place), **aside, va="center", ha="left", fontsize=10, color=colours["ink"])
    axes.set_ylim(len(values) - 0.5, -0.75)
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _short(name: str) -> str:
    """Return a name of bounded length: its beginning and its end, where such names differ."""
    name = presentation.printable(name).replace("$", r"\$")
    return name if len(name) <= _LONGEST_NAME * 2 else f"{name[:_LONGEST_NAME]}…{name[-_LONGEST_NAME:]}"
