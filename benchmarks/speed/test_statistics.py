"""How long `stats` takes over a million events."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from conftest import peak_memory

from neuron_store.store.events import Event, day_of, encode_event
from neuron_store.store.layout import Layout

MB = 1000 * 1000
EVENTS, DAYS, HOSTS, KEYS = 1_000_000, 30, 8, 20_000


def make_event(dice, at):
    """Return an event as a team's host would have it: mostly hits, of many results, some of them from a remote."""
    lot = dice.random()
    outcome = (
        "hit_direct" if lot < 0.85 else "hit_remote" if lot < 0.9 else "miss_stored" if lot < 0.97 else "pass_help"
    )
    fields = {"ms": f"{dice.uniform(8, 30):.1f}", "compiler": "2.21.33363.0+82129205", "run": f"{int(at) // 43200}"}
    if outcome != "pass_help":
        number = dice.randrange(KEYS)
        fields |= {
            "key": f"{number:032x}",
            "module": f"model.MODULE_{number:020}+4eddc804.hlo_module.pb",
            "seconds": f"{dice.uniform(10, 4000):.3f}",
            "bytes": str(dice.randrange(10**8)),
            "model": f"org/model-{number % 7}",
        }
    if outcome in ("hit_remote", "miss_stored"):
        answer = "hit" if outcome == "hit_remote" else "miss"
        fields["asked"] = f"{answer}/{dice.randrange(10, 400)}/hf://org/cache"
    return Event(at, outcome, fields)


def fill(layout, count):
    dice = random.Random(0)
    os.makedirs(f"{layout.root}/events")
    now = time.time()
    for day in range(DAYS):
        moment = now - day * 86400
        for host in range(HOSTS):
            lines = [encode_event(make_event(dice, moment)) for _ in range(count // DAYS // HOSTS)]
            with open(layout.event_path(f"{day_of(moment)}-0-host{host}"), "wb") as file:
                file.write(b"".join(lines))


@pytest.mark.parametrize("arguments", [["--json"], ["--since", "12h"]], ids=["all", "since"])
def test_statistics_of_a_million_events(benchmark, bench, say, arguments):
    fill(Layout(bench.env["NEURON_STORE_DIR"]), EVENTS)
    command = [sys.executable, "-m", "neuron_store.cli", "stats", *arguments]
    told = []

    def look():
        told.append(subprocess.run(command, env=bench.env, check=True, capture_output=True, text=True).stdout)

    benchmark.pedantic(look, rounds=5, warmup_rounds=1)
    if arguments == ["--json"]:
        said = json.loads(told[-1])
        assert (
            sum(said[name] for name in ("hits", "misses", "passed_through")) == EVENTS // DAYS // HOSTS * DAYS * HOSTS
        )
    memory = peak_memory(command, bench.env)
    benchmark.extra_info.update(peak_memory_bytes=memory)
    seconds = benchmark.stats.stats.median
    say(f"stats {' '.join(arguments)}, {EVENTS:,} events: {seconds:.2f} s   peak {memory / MB:.0f} MB a process")
