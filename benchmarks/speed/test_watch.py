"""What it costs a miss to tell who watches what it is at, and what one look at a large job costs."""

import statistics
import time
from types import SimpleNamespace

from rich.console import Console

from neuron_store.cli.watch_frame import make_frame
from neuron_store.cli.watch_state import Watch
from neuron_store.shim.settings import load_settings
from neuron_store.shim.telling import Telling
from neuron_store.store.events import Event, append_event
from neuron_store.store.in_flight import STATES, InFlight
from neuron_store.store.layout import Layout

HOSTS, DAYS, RANKS = 1000, 2, 64


def test_what_a_miss_tells(benchmark, bench, say):
    shim = SimpleNamespace(layout=Layout(bench.env["NEURON_STORE_DIR"]), environ={}, model=SimpleNamespace(name="m.pb"))

    def tell():
        telling = Telling(shim, "ab" * 16)
        telling.begin()
        for state in STATES:
            telling.note(state)
        telling.end()

    tell()  # makes the folder
    benchmark.pedantic(tell, rounds=1000)
    bare = statistics.median(bench.bare_interpreter() for _ in range(21))
    told = statistics.median(benchmark.stats.stats.data)
    benchmark.extra_info.update(bare_seconds=bare)
    say(f"what a miss tells who watches: {told * 1e3:.2f} ms, {told / bare:.3f}x a bare interpreter")


def test_a_look_at_a_job_of_a_thousand_hosts(benchmark, bench, say, monkeypatch):
    for name, value in bench.env.items():
        monkeypatch.setenv(name, value)
    layout = Layout(bench.env["NEURON_STORE_DIR"])
    layout.make_folder(f"{layout.root}/events")
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400 * ago)) for ago in range(DAYS)]
    for day in days:
        for host in range(HOSTS):
            with open(layout.event_path(f"{day}-1000-host{host}"), "wb"):
                pass
    flights = [InFlight(layout) for _ in range(RANKS)]
    for number, flight in enumerate(flights):
        flight.begin({"key": f"{number // 8:032x}", "module": f"m{number // 8}.pb"})
    watch = Watch(layout, load_settings(bench.env))
    console = Console(width=120, height=40)

    def look():
        append_event(layout, Event(time.time(), "hit_direct", {"module": "m.pb", "seconds": "60"}))
        watch.poll()
        with console.capture():
            console.print(make_frame(watch, 120, 40))

    benchmark.pedantic(look, rounds=21, warmup_rounds=2)
    assert watch.tally.counts["hit"] == 23
    assert len(watch.subgraphs) == RANKS // 8
    for flight in flights:
        flight.end()
    took = statistics.median(benchmark.stats.stats.data)
    say(f"a look of `watch`, {HOSTS} hosts' logs, {RANKS} processes in flight: {took * 1e3:.1f} ms")
