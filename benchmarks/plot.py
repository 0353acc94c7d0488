"""A picture of compile time against hit time, one pair of bars for each subgraph, on a logarithmic axis."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_store.store.errors import BenchmarkError

if TYPE_CHECKING:
    from neuron_store.benchmarks.harness import Row

FORMATS = (".png", ".svg", ".pdf")
_COLD, _HIT = "#b8552d", "#2a7f7a"


def check_plot_path(path: Path) -> None:
    """Raise BenchmarkError if no plot can be written to `path`, before any time is spent on measuring."""
    if path.suffix.lower() not in FORMATS:
        raise BenchmarkError(f"{path}: a plot is one of {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise BenchmarkError(f"{path.parent} does not exist; make it first")
    try:
        import matplotlib  # noqa: F401 - only to learn whether it can be
    except ImportError:
        raise BenchmarkError("--plot needs matplotlib; install it with `pip install 'neuron-store[bench]'`") from None


def save_plot(rows: "Sequence[Row]", path: Path, compiler: str) -> None:
    """Draw the rows to `path` (PNG, SVG or PDF). Raises OSError."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "neuron-store"  # the same picture is the same file
    figure, axes = pyplot.subplots(figsize=(8, 1.3 + 0.62 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        _draw_pair(axes, place, row)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time of the whole process (logarithmic)")
    axes.set_xlim(min(row.hit_median for row in rows) / 3, max(row.cold_seconds for row in rows) * 4)
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms")
    axes.set_title(f"Compiled once, then served: {compiler}", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(
        handles=[
            pyplot.Rectangle((0, 0), 1, 1, color=_COLD, label="compile"),
            pyplot.Rectangle((0, 0), 1, 1, color=_HIT, label="hit"),
        ],
        loc="lower right",
    )
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_pair(axes: Any, place: int, row: "Row") -> None:  # noqa: ANN401 - matplotlib's types are not installed everywhere
    axes.barh(place - 0.19, row.cold_seconds, height=0.36, color=_COLD)
    axes.barh(place + 0.19, row.hit_median, height=0.36, color=_HIT)
    axes.text(row.cold_seconds * 1.08, place - 0.19, f"{row.cold_seconds:.1f} s", va="center", fontsize=8)
    said = f"{row.hit_median * 1e3:.0f} ms, {row.speed_up:,.0f}x faster"
    axes.text(row.hit_median * 1.08, place + 0.19, said, va="center", fontsize=8)
