"""What `stats` tells by day, model, compiler and host, of reasons and remotes, and to Prometheus."""

import json
import os
import re
import stat
import time

import pytest
from event_making import DAY
from loopback_hub import Status
from prometheus_client.parser import text_string_to_metric_families
from remote_setup import SAME, TIMES, compile_on, publish

from neuron_store.shim.counters import COUNTERS
from neuron_store.store.events import Event, append_event, day_of, read_events
from neuron_store.store.remotes.answers import decode_answers

HERE = os.uname().nodename


def count(host, outcome, ago=0.0, **fields):
    append_event(host.layout, Event(time.time() - ago, outcome, {name: str(value) for name, value in fields.items()}))


@pytest.fixture
def busy(host):
    """A store with events of two days, models and compilers."""
    count(host, "hit_direct", model="org/a", compiler="2.21", seconds=100, bytes=1000)
    count(
        host, "hit_remote", model="org/a", compiler="2.22", seconds=60, bytes=500, fetched=300, asked="hit/20/hf://x/y"
    )
    count(host, "miss_stored", 2 * DAY, compiler="2.22", seconds=30, asked="miss/40/hf://x/y,error/900/hf://z/z")
    count(host, "pass_help", 2 * DAY, detail="--help")
    count(host, "upload_done", bytes=4000, detail="hf://x/y")
    return host


def rows(text):
    """Return the lines of a table: first word -> the other columns, which stand two spaces apart."""
    split = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:]]
    return {first: others for first, *others in split}


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (
            "day",
            {
                "today": ["2", "0", "0", "0", "100.0%", "2 min 40 s", "0 ms", "300 B", "4.0 kB"],
                "before": ["0", "1", "1", "0", "0.0%", "0 ms", "30.0 s", "0 B", "0 B"],
            },
        ),
        (
            "model",
            {
                "org/a": ["2", "0", "0", "0", "100.0%", "2 min 40 s", "0 ms", "300 B", "0 B"],
                "(not told)": ["0", "1", "1", "0", "0.0%", "0 ms", "30.0 s", "0 B", "4.0 kB"],
            },
        ),
        (
            "compiler",
            {
                "2.21": ["1", "0", "0", "0", "100.0%", "1 min 40 s", "0 ms", "0 B", "0 B"],
                "2.22": ["1", "1", "0", "0", "50.0%", "1 min", "30.0 s", "300 B", "0 B"],
                "(not told)": ["0", "0", "1", "0", "-", "0 ms", "0 ms", "0 B", "4.0 kB"],
            },
        ),
        ("host", {HERE: ["2", "1", "1", "0", "66.7%", "2 min 40 s", "30.0 s", "300 B", "4.0 kB"]}),
    ],
)
def test_stats_by_a_dimension(busy, ns, dimension, expected):
    days = {"today": day_of(time.time()), "before": day_of(time.time() - 2 * DAY)}
    assert rows(ns("stats", "--by", dimension).stdout) == {days.get(row, row): cells for row, cells in expected.items()}


def test_stats_by_something_else_is_refused(ns):
    done = ns("stats", "--by", "colour", code=2)
    assert done.stdout == ""
    assert re.search(r"'colour' is not one of .*day.*model.*compiler.*host", re.sub(r"[\s│]+", " ", done.stderr))


def test_json_has_every_dimension(busy, ns):
    said = json.loads(ns("stats", "--json").stdout)
    assert {name: set(said[f"by_{name}"]) for name in ("model", "compiler", "host")} == {
        "model": {"org/a", ""},
        "compiler": {"2.21", "2.22", ""},
        "host": {HERE},
    }
    for dimension in ("day", "model", "compiler", "host"):
        parts = said[f"by_{dimension}"].values()
        for name in ("hits", "misses", "passed_through", "seconds_saved", "bytes_fetched", "bytes_uploaded"):
            assert sum(part[name] for part in parts) == said[name], (dimension, name)
    assert (said["bytes_delivered"], said["bytes_fetched"], said["bytes_uploaded"]) == (1500, 300, 4000)
    assert said["hit_rate"] == 0.6667


def test_stats_tells_the_bytes_moved_and_what_each_remote_answered(busy, ns):
    text = ns("stats").stdout
    assert "\nbytes moved     1.5 kB delivered by hits, 300 B fetched, 4.0 kB uploaded\n" in text
    table = text[text.index("\nremote  ") + 1 :]
    assert rows(table) == {
        "hf://x/y": ["1", "1", "0", "0", "20 ms", "40 ms"],
        "hf://z/z": ["0", "0", "1", "0", "-", "-"],
    }


def test_latency_is_told_by_median_and_p95(host, ns):
    for milliseconds in range(1, 101):
        count(host, "miss_stored", asked=f"miss/{milliseconds}/hf://x/y,skipped/0/hf://z/z")
    remotes = json.loads(ns("stats", "--json").stdout)["remotes"]
    assert remotes == {
        "hf://x/y": {"hit": 0, "miss": 100, "error": 0, "skipped": 0, "median_seconds": 0.05, "p95_seconds": 0.095},
        "hf://z/z": {"hit": 0, "miss": 0, "error": 0, "skipped": 100, "median_seconds": None, "p95_seconds": None},
    }


def test_reasons_tell_what_each_miss_and_bypass_was_about(host, ns):
    for number in range(13):
        count(host, "pass_unusual_option", detail=f"--odd-{number:02}")
    count(host, "pass_unusual_option", detail="--odd-00")
    count(host, "miss_failed", detail="exit code 70")
    count(host, "hit_direct", detail="not of interest")
    lines = [line.split(maxsplit=2) for line in ns("stats", "--reasons").stdout.splitlines()[1:]]
    assert lines[0] == ["pass_unusual_option", "14", COUNTERS["pass_unusual_option"][1]]
    assert lines[1] == ["2", "--odd-00"]
    assert len(lines) == 1 + 10 + 1 + 2
    assert lines[11] == ["and", "3", "more"]
    assert [line[:2] for line in lines[12:]] == [["miss_failed", "1"], ["1", "exit"]]


# -- Prometheus --------------------------------------------------------------------------------------------------------


def metrics(text):
    return {
        (
            sample.name.removeprefix("neuron_store_"),
            *(value for name, value in sorted(sample.labels.items()) if name != "group"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_gets_every_counter(busy, ns, tmp_path):
    file = tmp_path / "neuron.prom"
    assert ns("stats", "--prometheus", file).stdout == ""
    found = metrics(file.read_text())
    assert found == metrics(ns("stats", "--prometheus", "-").stdout)
    events = {name[1]: value for name, value in found.items() if name[0] == "events_total"}
    assert set(events) == set(COUNTERS)
    assert {name: value for name, value in events.items() if value} == {
        "hit_direct": 1,
        "hit_remote": 1,
        "miss_stored": 1,
        "pass_help": 1,
        "upload_done": 1,
    }
    assert {name: value for name, value in found.items() if value and name[0] != "events_total"} == {
        ("compile_seconds_total", "saved"): 160,
        ("compile_seconds_total", "spent"): 30,
        ("moved_bytes_total", "delivered"): 1500,
        ("moved_bytes_total", "fetched"): 300,
        ("moved_bytes_total", "uploaded"): 4000,
        ("remote_answers_total", "hit", "hf://x/y"): 1,
        ("remote_answers_total", "miss", "hf://x/y"): 1,
        ("remote_answers_total", "error", "hf://z/z"): 1,
        ("remote_latency_seconds", "0.5", "hf://x/y"): 0.02,
        ("remote_latency_seconds", "0.95", "hf://x/y"): 0.04,
    }


def test_prometheus_gets_the_queue(host, ns, hub, tmp_path):
    host.use_remotes("hf://alice/cache", hub=hub)
    host.env["NEURON_STORE_UPLOAD"] = "false"
    compile_on(host)
    file = tmp_path / "neuron.prom"
    ns("stats", "--prometheus", file)
    found = metrics(file.read_text())
    assert found["queued_results", "hf://alice/cache"] == 1
    assert found["oldest_queued_timestamp_seconds", "hf://alice/cache"] == pytest.approx(time.time(), abs=120)
    assert (found["results",], found["upload_refused", "hf://alice/cache"]) == (1, 0)


def test_a_metrics_file_that_cannot_be_written_is_said(ns, tmp_path):
    done = ns("stats", "--prometheus", tmp_path / "none" / "x.prom", code=2)
    assert re.search(r"--prometheus .*/none/x\.prom: No such file or directory; give a file in", done.stderr)


def test_a_metrics_file_is_replaced_whole(busy, ns, tmp_path):
    file = tmp_path / "neuron.prom"
    file.write_text("old " * 100_000)
    ns("stats", "--prometheus", file)
    assert metrics(file.read_text())
    assert os.listdir(tmp_path / "..") and [name for name in os.listdir(tmp_path) if "prom" in name] == ["neuron.prom"]


def test_a_metrics_file_that_is_a_link_stays_one_and_its_target_is_replaced(busy, ns, tmp_path):
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept/neuron.prom", tmp_path / "link.prom"
    link.symlink_to(target)
    for _ in ("there is no target yet", "there is one"):
        ns("stats", "--prometheus", link)
        assert link.is_symlink()
        assert metrics(target.read_text())
    assert os.listdir(tmp_path / "kept") == ["neuron.prom"]


def test_metrics_are_written_into_a_pipe(busy, ns, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with open(reader) as file:
        ns("stats", "--prometheus", pipe)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert metrics(file.read())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize(("minor", "code"), [(3, 0), (7, 2)], ids=["null", "full"])
def test_metrics_never_replace_a_device(busy, ns, tmp_path, minor, code):
    device = tmp_path / "device"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    ns("stats", "--prometheus", device, code=code)
    assert stat.S_ISCHR(device.stat().st_mode)


def test_metrics_can_go_to_a_descriptor(busy, ns):
    assert metrics(ns("stats", "--prometheus", "/dev/stdout").stdout)


def test_metrics_in_a_file_leave_stdout_to_json(busy, ns, tmp_path):
    done = ns("stats", "--prometheus", tmp_path / "x.prom", "--json")
    assert json.loads(done.stdout)["counters"]["hit_direct"] == 1
    assert metrics((tmp_path / "x.prom").read_text())
    done = ns("stats", "--prometheus", "-", "--json", code=2)
    assert done.stdout == ""
    assert "--prometheus - and --json both want stdout" in done.stderr


# -- what the shim tells -----------------------------------------------------------------------------------------------


def fields_of(host):
    return [event.fields for event in read_events(host.layout) if not event.outcome.startswith("upload")]


def test_the_shim_tells_compiler_model_and_bytes(host):
    host.cc("--version")
    model = host.model()
    for _ in range(2):
        host.cc("compile", "--target=trn1", model, "--output=o.neff", NEURON_STORE_MODEL="org/name")
    passed, missed, hit = fields_of(host)
    assert "compiler" not in passed and "model" not in passed
    assert missed["compiler"] == hit["compiler"] != ""
    assert missed["model"] == hit["model"] == "org/name"
    assert int(hit["bytes"]) >= (host.work / "o.neff").stat().st_size > 0
    assert {"bytes", "fetched", "asked"}.isdisjoint(missed)


def test_the_shim_tells_what_remotes_answered(make_host, hub):
    maker, taker = make_host("maker"), make_host("taker")
    compile_on(maker, STANDIN_SIZE=300_000)
    publish(maker, "hf://alice/cache", hub)
    hub.create_repo("alice/other")
    taker.use_remotes("hf://alice/other|ro", "hf://alice/cache|ro", hub=hub)
    taker.env |= TIMES
    compile_on(taker, **SAME)
    compile_on(taker, data=b"\x0a\x04main unknown", **SAME)
    hit, missed = fields_of(taker)
    told = [[(answer, url, n) for answer, _, url, n in decode_answers(fields["asked"])] for fields in (hit, missed)]
    assert told == [
        [("miss", "hf://alice/other", 1), ("hit", "hf://alice/cache", 1)],
        [("miss", "hf://alice/other", 1), ("miss", "hf://alice/cache", 1)],
    ]
    assert all(seconds > 0 for fields in (hit, missed) for _, seconds, _, _ in decode_answers(fields["asked"]))
    assert int(hit["fetched"]) > 100_000
    assert "fetched" not in missed


def test_a_remote_that_fails_is_an_error_then_skipped(host, hub):
    host.use_remotes("hf://alice/cache|ro", hub=hub)
    host.env |= TIMES
    hub.fail("resolve", Status(500), times=None)
    for number in range(2):
        compile_on(host, data=b"\x0a\x04main %d" % number)
    answers = [[answer for answer, *_ in decode_answers(fields["asked"])] for fields in fields_of(host)]
    assert answers == [["error"], ["skipped"]]
    assert host.counters() == {"miss_stored": 2, "remote_failed": 1, "remote_skipped": 1}


def test_uploads_tell_their_bytes(host, hub, ns):
    host.use_remotes("hf://alice/cache", hub=hub)
    compile_on(host, STANDIN_SIZE=300_000)
    ns("push")
    sent = sum(
        int(event.fields.get("bytes", 0)) for event in read_events(host.layout) if event.outcome == "upload_done"
    )
    assert sent > 100_000
    assert json.loads(ns("stats", "--json").stdout)["bytes_uploaded"] == sent
