"""What `stats`, `list`, `show` and `config` print, and that none of them ever ends in a traceback."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from neuron_store.shim.counters import COUNTERS, HIT, MISS
from neuron_store.shim.settings import SETTINGS
from neuron_store.store.direct import Output
from neuron_store.store.events import Event, append_event
from neuron_store.store.results import Result, all_keys, save_result

DAY = 86400.0
COMPILE = ["compile", "--target=trn1"]


def count(host, outcome, ago=0.0, **fields):
    append_event(host.layout, Event(time.time() - ago, outcome, {name: str(value) for name, value in fields.items()}))


def key(number):
    return f"{number:02x}".ljust(32, "0")


def put(host, number, *, module="model.pb", version="2.14.1+aa", size=1000, seconds=1.0, ago=0.0, used=0.0):
    """Put a result record into the store, as a compile of long ago would have."""
    result = Result(
        key=key(number),
        components=[{"name": "flags", "digest": "d" * 32, "fields": ["--target=trn1"]}],
        outputs={"neff": Output("neff", "a" * 64, "b" * 32, size, "raw", None)},
        interleave="",
        seconds=seconds,
        input_file={"name": module, "size": 9, "sha256": "c" * 64, "mode": "raw"},
        provenance={"created": time.time() - ago, "compiler_version": version, "host": "h", "user": 1, "command": []},
    )
    save_result(host.layout, result)
    if used:
        os.utime(host.layout.result_path(key(number)), (time.time() - used, time.time() - used))


def listed(ns, *arguments):
    """Return the numbers of the results that `list` shows, in its order."""
    rows = json.loads(ns("list", "--json", *arguments).stdout)
    return [int(row["key"][:2], 16) for row in rows]


# -- stats ---------------------------------------------------------------------------------------------------------


def test_stats_shows_hits_misses_and_the_time_that_hits_saved(host, ns):
    count(host, "miss_stored", seconds="100.25", ms="20")
    count(host, "hit_direct", seconds="100.25", incidents="waited,corrupt_blob")
    count(host, "hit_canonical", seconds="100.25")
    count(host, "hit_direct")
    count(host, "pass_help")
    lines = ns("stats").stdout.splitlines()
    assert [line.split() for line in lines if re.match(r"[A-Z]", line)] == [
        ["Hits", "3"],
        ["Misses", "1"],
        ["Passed", "through", "1"],
        ["Incidents"],
    ]
    assert [line.split()[:2] for line in lines if line.startswith("  ") and "on disk" not in line] == [
        ["hit_direct", "2"],
        ["hit_canonical", "1"],
        ["miss_stored", "1"],
        ["pass_help", "1"],
        ["corrupt_blob", "1"],
        ["waited", "1"],
    ]
    assert "hit rate        75.0% of 4 cacheable requests" in lines
    assert "time compiled   1 min 40 s" in lines
    assert "time saved      3 min 20 s (1 hit of unknown seconds left out)" in lines
    assert f"store           {host.store}" in lines
    assert re.search(r"^ {16}0 results, \d.* on disk$", lines[-1])


def test_stats_of_real_compiles(host, ns):
    model = host.model()
    for name in ("a", "b", "c"):
        host.cc(*COMPILE, model, f"--output={name}.neff")
    said = json.loads(ns("stats", "--json").stdout)
    assert (said["hits"], said["misses"], said["passed_through"], said["errors"]) == (2, 1, 0, 0)
    assert said["seconds_saved"] == pytest.approx(2 * said["seconds_compiled"])
    assert said["store"]["dir"] == str(host.store)
    assert said["store"]["results"] == 1
    assert said["store"]["blobs"] >= 2  # the NEFF, what the compiler said, and perhaps the input
    assert said["store"]["bytes"] > 2000
    assert "\n                1 result, " in ns("stats").stdout


def test_stats_json_has_every_counter(host, ns):
    for number, name in enumerate(COUNTERS):
        if COUNTERS[name][0] == "incident":
            for _ in range(number):
                count(host, "hit_direct", incidents=name)
        elif name != "hit_direct":
            for _ in range(number):
                count(host, name)
    counters = json.loads(ns("stats", "--json").stdout)["counters"]
    assert set(counters) == set(COUNTERS)
    wrong = [n for i, n in enumerate(COUNTERS) if n != "hit_direct" and counters[n] != i]
    assert wrong == []


def test_stats_json_of_nothing_has_every_counter_at_zero(ns):
    said = json.loads(ns("stats", "--json").stdout)
    assert said["counters"] == dict.fromkeys(COUNTERS, 0)
    assert said["since"] is None


def test_stats_all_shows_every_counter_with_its_meaning(host, ns):
    count(host, "miss_stored")
    lines = ns("stats", "--all").stdout.splitlines()
    for name, (_, meaning) in COUNTERS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split(maxsplit=2) == [name, "1" if name == "miss_stored" else "0", meaning]


def test_stats_without_all_leaves_out_zeros(host, ns):
    count(host, "miss_stored")
    text = ns("stats").stdout
    assert {name for name in COUNTERS if name in text} == {"miss_stored"}


def test_stats_counts_what_another_version_counted(host, ns):
    count(host, "hit_remote", seconds="5")
    count(host, "pass_of_tomorrow", incidents="surprise")
    said = json.loads(ns("stats", "--json").stdout)
    assert (said["hits"], said["passed_through"], said["seconds_saved"]) == (1, 1, 5.0)
    text = ns("stats").stdout
    for name in ("hit_remote", "pass_of_tomorrow", "surprise"):
        assert re.search(rf"^  {name} +1  \S", text, re.MULTILINE)


def test_stats_counts_what_the_store_could_not_take(host, ns):
    host.store.write_text("a file")
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    done = ns("stats", "--json", code=1)
    assert json.loads(done.stdout)["counters"]["pass_no_writable_store"] == 1
    done = ns("stats", code=1)
    assert "pass_no_writable_store" in done.stdout
    assert done.stderr.startswith(f"neuron-store: the store {host.store} is not a folder; ")


AGES = {"seconds": 20.0, "minutes": 20 * 60.0, "hours": 20 * 3600.0, "days": 6.5 * DAY, "weeks": 20 * DAY}


@pytest.mark.parametrize(
    ("since", "kept"),
    [("300s", 1), ("50m", 2), ("22h", 3), ("1.5 d", 3), ("1w", 4), ("3w", 5), ("0s", 0), ("99999999999999d", 5)],
)
def test_since_takes_an_age(host, ns, since, kept):
    for ago in AGES.values():
        count(host, "miss_stored", ago)
    said = json.loads(ns("stats", "--since", since, "--json").stdout)
    assert said["misses"] == kept
    assert said["since"] <= time.time()


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00"])
def test_since_takes_a_date(host, ns, form):
    for ago in AGES.values():
        count(host, "miss_stored", ago)
    date = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=10)
    for verb, kept in (("stats", 4), ("list", None)):
        said = json.loads(ns(verb, "--since", date.strftime(form), "--json", TZ="UTC").stdout)
        assert kept is None or said["misses"] == kept


@pytest.mark.parametrize("nonsense", ["banana", "5x", "-1h", "1h2m", "h", "2026-13-40", "2026-02-30", "12"])
def test_since_refuses_nonsense(ns, nonsense):
    for verb in ("stats", "list"):
        done = ns(verb, f"--since={nonsense}", code=2)
        assert done.stderr.startswith(f"neuron-store: {nonsense!r} is no time: give an age such as ")
        assert done.stdout == ""


# -- list ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def four(host):
    put(host, 1, module="a.pb", version="2.14.1+aa", size=4000, seconds=7.0, ago=1 * DAY, used=500)
    put(host, 2, module="b-train.pb", version="2.14.2+bb", size=1000, seconds=None, ago=2 * DAY, used=100)
    put(host, 3, module="c-train.pb", version="2.15.0+cc", size=3000, seconds=900.0, ago=3 * DAY, used=400)
    put(host, 4, module="d.pb", version=None, size=2000, seconds=60.0, ago=0.5 * DAY, used=300)
    for _ in range(3):
        count(host, "hit_direct", key=key(2))
    for _ in range(2):
        count(host, "hit_canonical", key=key(3))
    count(host, "miss_stored", key=key(1))


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("age", [4, 1, 2, 3]),
        ("size", [1, 3, 4, 2]),
        ("seconds", [3, 4, 1, 2]),
        ("hits", [2, 3, 1, 4]),
        ("used", [2, 4, 3, 1]),
    ],
)
def test_list_sorts(four, ns, sort, order):
    assert listed(ns, "--sort", sort) == order


def test_list_shows_the_newest_first(four, ns):
    assert listed(ns) == [4, 1, 2, 3]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (["--module", "train"], [2, 3]),
        (["--module", ".pb"], [4, 1, 2, 3]),
        (["--compiler", "2.14"], [1, 2]),
        (["-c", "2.15.0+cc"], [3]),
        (["-c", "14"], []),
        (["--since", "36h"], [4, 1]),
        (["--min-seconds", "60"], [4, 3]),
        (["--module", "train", "-c", "2.14", "--since", "1w"], [2]),
        (["--limit", "2"], [4, 1]),
        (["-n", "0"], [4, 1, 2, 3]),
        (["-n", "1", "--sort", "size", "--module", "train"], [3]),
    ],
)
def test_list_filters(four, ns, filters, kept):
    assert listed(ns, *filters) == kept


def test_list_json_has_all_that_is_known(four, ns):
    row = json.loads(ns("list", "--json", "--module", "c-train").stdout)[0]
    assert row.pop("created") == pytest.approx(time.time() - 3 * DAY, abs=60)
    assert row.pop("used") == pytest.approx(time.time() - 400, abs=60)
    assert row == {
        "key": key(3),
        "module": "c-train.pb",
        "compiler": "2.15.0+cc",
        "size": 3000,
        "seconds": 900.0,
        "hits": 2,
    }


def test_list_shows_a_line_for_each_result(four, ns):
    header, *lines = ns("list").stdout.splitlines()
    assert header.split() == ["key", "size", "compile", "age", "hits", "compiler", "module"]
    assert [line.split() for line in lines] == [
        ["040000000000", "2.0", "kB", "1", "min", "12", "h", "0", "unknown", "d.pb"],
        ["010000000000", "4.0", "kB", "7.0", "s", "1", "d", "0", "2.14.1", "a.pb"],
        ["020000000000", "1.0", "kB", "unknown", "2", "d", "3", "2.14.2", "b-train.pb"],
        ["030000000000", "3.0", "kB", "15", "min", "3", "d", "2", "2.15.0", "c-train.pb"],
    ]


def test_list_says_when_a_limit_left_out_some(four, ns):
    done = ns("list", "-n", "3")
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == "neuron-store: 3 of 4 results; -n 0 shows all\n"
    assert ns("list", "-n", "4").stderr == ""


def test_list_says_that_none_fits(four, host, ns):
    done = ns("list", "--module", "absent")
    assert (done.stdout, done.stderr) == ("", f"neuron-store: none of the 4 results in {host.store} fits\n")


def test_list_says_that_there_are_none(host, ns):
    done = ns("list")
    assert (done.stdout, done.stderr) == ("", f"neuron-store: there is no result in {host.store} yet\n")
    done = ns("list", "--json")
    assert (json.loads(done.stdout), done.stderr) == ([], "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sort", "colour"], "--sort"),
        (["--min-seconds", "x"], "--min-seconds"),
        (["-n", "-1"], "--limit"),
        (["-n", "x"], "--limit"),
        (["colour"], "colour"),
    ],
)
def test_list_refuses_nonsense(ns, arguments, named):
    assert named in ns("list", *arguments, code=2).stderr


def test_list_leaves_out_damaged_records_and_says_so(four, host, ns):
    path = host.layout.result_path(key(2))
    with open(path, "r+b") as file:
        file.truncate(50)
    assert listed(ns) == [4, 1, 3]
    assert ns("list").stderr == "neuron-store: left out 1 damaged record; the next compile of the same replaces it\n"


def test_list_fits_a_narrow_terminal(host, ns):
    put(host, 1, module="model.MODULE_16518787498567201059+d41d8cd9.hlo_module.pb", version="2.14.227.0+2d4f85be")
    lines = ns("list", COLUMNS=80).stdout.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert re.search(r" 2\.14\.227\.0  model\.MODULE_\d+…$", lines[1])


def test_names_are_shown_as_they_are_whatever_is_in_them(host, ns):
    names = ["[bold]x[/].pb", "[/]", ":cat:.pb", "模型 é.pb", os.fsdecode(b"\xff\xfe.pb")]
    for number, name in enumerate(names):
        put(host, number, module=name, ago=number * 3600.0)
    for language in ("C.UTF-8", "en_US.UTF-8", "C", "POSIX"):
        done = subprocess.run(
            [sys.executable, "-m", "neuron_store.cli", "list"],
            env=host.environ({"LC_ALL": language}),
            capture_output=True,
            check=True,
        )
        shown = [line.rpartition(b" 2.14.1 ")[2].strip() for line in done.stdout.splitlines()[1:]]
        assert shown[:4] == [name.encode() for name in names[:4]]
        assert shown[4].endswith(b".pb")
        assert done.stderr == b""
    assert [row["module"] for row in json.loads(ns("list", "--json").stdout)][:4] == names[:4]
    for number in range(len(names)):
        ns("show", key(number))
        ns("show", key(number), "--json")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_in_any_encoding(host, ns, encoding):
    put(host, 1, module="模型.pb")
    put(host, 2, module=os.fsdecode(b"\xff.pb"))
    rows = json.loads(ns("list", "--json", PYTHONIOENCODING=encoding).stdout)
    assert {row["module"] for row in rows} == {"模型.pb", os.fsdecode(b"\xff.pb")}
    assert ".pb" in ns("list", PYTHONIOENCODING=encoding).stdout
    assert ".pb" in ns("show", key(1), PYTHONIOENCODING=encoding).stdout


# -- show ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(host):
    """The key of a result that was really compiled."""
    model = host.model("my model.pb")
    host.cc(*COMPILE, model, "--output=o.neff", "-O2", STANDIN_PRINT='[["e", "warning"]]')
    (found,) = all_keys(host.layout)
    return found


@pytest.mark.parametrize("digits", [1, 2, 3, 12, 32])
def test_show_takes_a_key_or_its_first_digits(host, ns, compiled, digits):
    text = ns("show", compiled[:digits]).stdout
    for said in (compiled, "my model.pb", "--target=trn1", "-O2", str(host.compiler), "2.14.227.0+2d4f85be"):
        assert said in text
    assert re.search(r"^  neff +2\.0 kB, stored as raw, 2\.0 kB$", text, re.MULTILINE)
    assert ns("show", compiled[:digits].upper()).stdout == text


def test_show_writes_the_command_as_a_shell_would_take_it(host, ns, compiled):
    text = ns("show", compiled).stdout
    assert f"neuronx-cc compile --target=trn1 '{host.work}/my model.pb' --output=o.neff -O2" in text


def test_show_json_is_the_record_and_where_its_blobs_are(host, ns, compiled):
    said = json.loads(ns("show", compiled, "--json").stdout)
    assert said["key"] == compiled
    assert [component["name"] for component in said["components"]][:2] == ["compiler", "flags"]
    assert set(said["blobs"]) == {output["role"] for output in said["outputs"]} == {"neff", "stdout", "stderr"}
    for blob in said["blobs"].values():
        assert os.path.getsize(blob["path"]) == blob["stored_bytes"]


def test_show_says_which_blob_is_missing(host, ns, compiled):
    shutil.rmtree(host.store / "blobs")
    assert ns("show", compiled).stdout.count("missing from the store") == 3
    blobs = json.loads(ns("show", compiled, "--json").stdout)["blobs"]
    assert {blob["stored_bytes"] for blob in blobs.values()} == {None}


def test_show_of_a_prefix_of_several_keys_names_them(host, ns):
    for number in (0x10, 0x11, 0x12):
        put(host, number)
    done = ns("show", "1", code=2)
    assert done.stderr == f"neuron-store: 3 keys start with 1 ({key(16)}, {key(17)}, {key(18)}); give more digits\n"
    assert done.stdout == ""


def test_show_of_an_unknown_key(host, ns, compiled):
    other = "0" if compiled[0] != "0" else "1"
    for absent in (other, other * 32, compiled[:31] + ("0" if compiled[31] != "0" else "1")):
        done = ns("show", absent, code=1)
        assert done.stderr.startswith(f"neuron-store: no result in {host.store} has a key that starts with {absent}")


@pytest.mark.parametrize("nonsense", ["xyz", "a" * 33, "../../etc/passwd", "a/b", "aa*", " ", "é", "-5"])
def test_show_of_nonsense(ns, compiled, nonsense):
    for words in (["show", "--", nonsense], ["verify", f"--key={nonsense}"]):
        done = ns(*words, code=2)
        assert done.stderr.startswith(f"neuron-store: {nonsense!r} is not a key")


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "another's"])
def test_show_of_a_corrupt_record_names_the_file(host, ns, compiled, damage):
    path = host.layout.result_path(compiled)
    with open(path, "rb") as file:
        data = file.read()
    if damage == "another's":
        put(host, 1)
        os.replace(host.layout.result_path(key(1)), path)
    else:
        flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
        with open(path, "wb") as file:
            file.write({"torn": data[:100], "flipped": flipped, "empty": b""}[damage])
    done = ns("show", compiled, code=1)
    assert done.stderr.startswith(f"neuron-store: {path}: ")
    assert done.stdout == ""


def test_show_fits_a_narrow_terminal(ns, compiled):
    text = ns("show", compiled, COLUMNS=80).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert compiled in text


# -- config --------------------------------------------------------------------------------------------------------


def test_config_shows_every_setting_with_its_source_and_meaning(host, ns):
    ns("config", "set", "lock_timeout", "60")
    done = ns("config", NEURON_STORE_READ_ONLY=1)
    lines = {line.split()[0]: re.split(r"\s{2,}", line) for line in done.stdout.splitlines() if line}
    assert set(SETTINGS) <= set(lines)
    assert lines["dir"][1:] == [str(host.store), "NEURON_STORE_DIR", SETTINGS["dir"][2]]
    assert lines["lock_timeout"][1:] == ["60", "config.toml", SETTINGS["lock_timeout"][2]]
    assert lines["read_only"][1:] == ["true", "NEURON_STORE_READ_ONLY", SETTINGS["read_only"][2]]
    assert lines["compiler"][1:] == ["-", "default", SETTINGS["compiler"][2]]
    assert done.stdout.endswith(f"\nconfig.toml is {host.home}/.config/neuron-store/config.toml\n")
    assert done.stderr == ""


def test_config_says_where_the_file_would_be(host, ns):
    assert ns("config").stdout.endswith("/neuron-store/config.toml, which does not exist\n")


def test_config_json(host, ns):
    ns("config", "set", "lock_timeout", "60")
    said = json.loads(ns("config", "--json").stdout)
    file = f"{host.home}/.config/neuron-store/config.toml"
    assert said["config_file"] == file
    assert set(said["settings"]) == set(SETTINGS)
    assert said["settings"]["lock_timeout"] == {"value": 60.0, "source": file}
    assert said["settings"]["dir"] == {"value": str(host.store), "source": "NEURON_STORE_DIR"}
    assert said["settings"]["enabled"] == {"value": True, "source": "default"}


def test_config_warns_of_names_that_are_no_settings(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("lock_timout = 5\n")
    done = ns("config", NEURON_STORE_COLOUR="blue", NEURON_STORE_RUN="x")
    assert done.stderr.splitlines() == [
        f"neuron-store: lock_timout in {config} is no setting",
        "neuron-store: NEURON_STORE_COLOUR in the environment is no setting",
    ]


def test_config_shows_odd_paths_as_they_are(ns):
    odd = "/a [bold]b[/bold] :cat: é [/c]"
    assert odd in ns("config", NEURON_STORE_DIR=odd).stdout
    assert odd in ns("stats", NEURON_STORE_DIR=odd).stdout
    assert odd in ns("list", NEURON_STORE_DIR=odd).stderr


def test_config_fits_a_narrow_terminal(ns):
    text = ns("config", COLUMNS=80, NEURON_STORE_COMPRESSION_LEVEL=5).stdout
    table, _, _ = text.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    for name in SETTINGS:
        assert re.search(rf"^{name} ", table, re.MULTILINE)


def test_config_set_says_what_it_did(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    assert ns("config", "set", "enabled", "off").stdout == f"enabled = false in {config}\n"
    assert ns("config", "set", "lock_timeout", "1e2").stdout == f"lock_timeout = 100 in {config}\n"
    done = ns("config", "set", "dir", "/efs/v1.0")
    assert done.stdout == f"dir = /efs/v1.0 in {config}\n"
    assert done.stderr == "neuron-store: NEURON_STORE_DIR is set in the environment and comes before it\n"
    assert config.read_text() == 'enabled = false\nlock_timeout = 100.0\ndir = "/efs/v1.0"\n'
    assert [path.name for path in config.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("name", SETTINGS)
def test_config_set_to_nothing_takes_a_setting_out_of_the_file(host, ns, name):
    config = host.home / ".config/neuron-store/config.toml"
    of_kind = {"path": "/x", "integer": "5", "number": "5", "boolean": "true", "word": "exact", "list": "file:///x"}
    of_kind |= {"bytes": "5G", "time": "5d", "share": "10%"}
    ns("config", "set", name, {"xet": "off"}.get(name, of_kind[SETTINGS[name][0]]))
    assert config.read_text().startswith(f"{name} = ")
    assert ns("config", "set", name, "").stdout == f"{name} is not set in {config}\n"
    assert config.read_text() == ""


def test_config_set_to_nothing_removes_what_is_no_setting(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("lock_timout = 5\n")
    ns("config", "set", "lock_timout", "")
    assert config.read_text() == ""
    ns("config", "set", "lock_timout", "", code=2)


def test_config_set_follows_a_link(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    kept = host.home / "dotfiles.toml"
    kept.write_text("# mine\n")
    config.symlink_to(kept)
    ns("config", "set", "recache", "1")
    assert config.is_symlink()
    assert kept.read_text() == "# mine\nrecache = true\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["colour", "blue"], f"there is no setting 'colour'; there are {', '.join(SETTINGS)}\n"),
        (["lock_timeout", "soon"], "lock_timeout is 'soon', which is not a number"),
        (["compression_level", "20"], "compression_level is 20, which is not from 0 to 19"),
        (["enabled", "maybe"], "enabled is 'maybe', which is not true or false"),
    ],
)
def test_config_set_refuses_and_writes_nothing(host, ns, arguments, said):
    assert ns("config", "set", *arguments, code=2).stderr.startswith(f"neuron-store: {said}")
    assert not (host.home / ".config").exists()


def test_config_set_without_a_value_is_refused(ns):
    assert "value" in ns("config", "set", "enabled", code=2).stderr


def test_a_config_file_that_cannot_be_written_gives_a_message(host, ns):
    (host.home / ".config").touch()
    done = ns("config", "set", "enabled", "off", code=2)
    assert done.stderr.startswith(f"neuron-store: {host.home}/.config/neuron-store/config.toml cannot be written: ")
    assert done.stdout == ""


def test_a_config_file_that_is_a_folder_gives_a_message(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    config.mkdir(parents=True)
    for verb in (["config"], ["config", "set", "enabled", "off"], ["stats"], ["list"]):
        assert ns(*verb, code=2).stderr.startswith(f"neuron-store: {config} cannot be read")


@pytest.mark.parametrize("verb", [["config"], ["config", "--json"], ["stats"], ["list"], ["show", "aa"]])
def test_a_bad_setting_gives_a_message_that_names_it(ns, verb):
    done = ns(*verb, code=2, NEURON_STORE_LOCK_TIMEOUT="soon")
    assert done.stderr == "neuron-store: NEURON_STORE_LOCK_TIMEOUT is 'soon', which is not a number\n"
    assert done.stdout == ""


def test_config_set_mends_a_file_with_a_bad_value(host, ns):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('enabled = "perhaps"\n')
    ns("config", code=2)
    ns("config", "set", "enabled", "true")
    ns("config")


# -- stores and readers that are not as they should be -------------------------------------------------------------

READERS = [["stats"], ["stats", "--json"], ["list"], ["list", "--json"], ["config"], ["config", "--json"]]


@pytest.mark.parametrize("verb", [*READERS, ["list", "--sort", "hits"]])
def test_a_store_that_does_not_exist_is_empty_and_is_not_made(host, ns, verb):
    ns(*verb)
    assert not host.store.exists()
    assert list(host.home.iterdir()) == []


def test_show_does_not_make_a_store(host, ns):
    ns("show", "aa", code=1)
    assert not host.store.exists()


@pytest.mark.parametrize("verb", [["list"], ["list", "--json"], ["show", "aa"]])
def test_a_store_path_that_is_a_file_gives_a_message(host, ns, verb):
    host.store.write_text("a file")
    done = ns(*verb, code=1)
    assert done.stderr == (
        f"neuron-store: the store {host.store} is not a folder; "
        "move what is there away, or set NEURON_STORE_DIR to another folder\n"
    )
    assert done.stdout == ""
    assert host.store.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("verb", [["list"], ["show", "aa"]])
def test_a_store_that_may_not_be_read_gives_a_message(host, ns, verb):
    host.store.mkdir(mode=0o000)
    done = ns(*verb, code=1)
    assert done.stderr.startswith(f"neuron-store: the store {host.store} cannot be read (Permission denied); ")


def shell(host, script):
    command = f'"{sys.executable}" -m neuron_store.cli'
    return subprocess.run(
        ["bash", "-c", script.replace("neuron-store", command)],
        env=host.env,
        cwd=host.work,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "verb", [*READERS, ["show", "01"], ["show", "01", "--json"], ["env"], ["config", "set", "recache", "1"]]
)
def test_a_reader_that_takes_one_line_is_enough(host, verb):
    put(host, 1)
    done = shell(host, f"neuron-store {' '.join(verb)} | head -n 1 >/dev/null; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_takes_one_line_of_much_is_enough(host, option):
    for number in range(256):
        put(host, number, module="m" * 1000)
    done = shell(host, f"neuron-store list {option} | head -n 1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("verb", READERS)
def test_closed_streams_are_no_fault(host, verb):
    put(host, 1)
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = shell(host, f"neuron-store {' '.join(verb)} {closed}")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("verb", READERS)
def test_a_full_disk_gives_a_message(host, verb):
    put(host, 1)
    done = shell(host, f"neuron-store {' '.join(verb)} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "neuron-store: the output: No space left on device\n")


def test_torn_and_foreign_lines_of_the_event_log_are_left_out(host, ns):
    count(host, "miss_stored", seconds="3")
    with open(next((host.store / "events").iterdir()), "ab") as file:
        file.write(b"\n2\t17\t5 \thit_di")
        file.write(b"\n1\t1790000000\thit_direct\tx=y\t.\n")
        file.write(b"\n3\t1790000000\t5\thit_direct x=y\t.\n")
        file.write(b"\xff\xfe\x00garbage\n2\t1790000000 hit_direct\t.\n")
    count(host, "hit_direct", seconds="not a number")
    said = json.loads(ns("stats", "--json").stdout)
    assert (said["hits"], said["misses"], said["hits_of_unknown_seconds"]) == (1, 1, 1)


def test_the_groups_of_counters_add_up(host, ns):
    for name in COUNTERS:
        count(host, name)
    said = json.loads(ns("stats", "--json").stdout)
    assert said["hits"] == sum(group == HIT for group, _ in COUNTERS.values())
    assert said["misses"] == sum(group == MISS for group, _ in COUNTERS.values())


def test_the_version_and_the_help_are_printed(ns):
    assert re.fullmatch(r"neuron-store \d+\.\d+\.\d+\S*\n", ns("--version").stdout)
    for verb in ([], ["env"], ["run"], ["stats"], ["list"], ["show"], ["config"], ["config", "set"]):
        for option in ("-h", "--help"):
            assert "Usage:" in ns(*verb, option).stdout
    ns("nonsense", code=2)
