"""The shim reads repos of the stock layout: what an entry proves is a hit, what it only claims is none."""

import json

import pytest
from loopback_hub import FlipByte, Status, Truncate
from standin_libneuronxla import module_name
from stock_setup import FLAGS, FOLDER, graph, renamed, stock, stock_files

from neuron_store.store.results import all_keys, load_result

NEFF = b"a NEFF of the public cache" * 1000


@pytest.fixture
def public(host, hub):
    """A host without any configuration but where the Hub is, and the official repo."""
    hub.add_user("aws-neuron", "hf_aws")
    hub.create_repo("aws-neuron/optimum-neuron-cache")
    host.use_remotes(hub=hub, token="")
    del host.env["NEURON_STORE_REMOTES"]
    return host


def put(hub, files, repo="aws-neuron/optimum-neuron-cache"):
    hub.put_files(repo, files)


def ask(host, data, *flags, form="training", suffix="hlo_module.pb", **extra):
    """Compile as libneuronxla does; return the NEFF."""
    flags = flags or FLAGS
    model = host.model(f"wd/model.{module_name(data, list(flags), form)}.{suffix}", data)
    output = host.work / "o.neff"
    output.unlink(missing_ok=True)
    host.cc("compile", "--framework=XLA", model, "--output", output, *flags, "--verbose=35", **extra)
    return output.read_bytes()


@pytest.mark.parametrize("form", ["training", "inference", "2023"])
def test_the_public_cache_serves_without_any_configuration(public, hub, form):
    put(hub, stock_files(FOLDER, graph(), form=form, neff=NEFF))
    assert ask(public, graph(), form=form, suffix="hlo.pb" if form == "2023" else "hlo_module.pb") == NEFF
    assert public.runs == []
    assert public.counters() == {"hit_stock": 1}
    assert ask(public, graph(), form=form) == NEFF
    assert public.counters() == {"hit_stock": 1, "hit_direct": 1}
    assert public.leftovers() == []


def test_its_origin_is_recorded_and_its_seconds_are_unknown(public, hub):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    ask(public, graph())
    (key,) = all_keys(public.layout)
    result = load_result(public.layout, key)
    assert result.seconds is None
    assert result.provenance["origin"] == "hf://aws-neuron/optimum-neuron-cache"
    module = module_name(graph(), list(FLAGS))
    assert result.provenance["stock"] == {"module": module, "flags": list(FLAGS), "by_name": False}
    shown = public.cli("show", key).stdout
    assert "hf://aws-neuron/optimum-neuron-cache" in shown
    assert module in shown


def test_the_wrapped_neff_comes_with_it_and_its_absence_too(public, hub):
    put(hub, stock_files(FOLDER, graph(1), **{"wrapped_neff.hlo": b"wrapped"}))
    put(hub, stock_files(FOLDER, graph(2)))
    wrapped = public.work / "wrapped_neff.hlo"
    ask(public, graph(1))
    assert wrapped.read_bytes() == b"wrapped"
    ask(public, graph(2))
    assert not wrapped.exists()
    assert public.counters() == {"hit_stock": 2}


def test_the_same_program_traced_again_is_served(public, hub):
    """The name tells which entry it is; what proves it is the canonical form."""
    files = stock_files(FOLDER, graph(), neff=NEFF)
    put(hub, {path: renamed(graph()) if path.endswith(".pb") else data for path, data in files.items()})
    assert ask(public, graph()) == NEFF
    assert public.counters() == {"hit_stock": 1}


def test_options_in_another_order_and_spelling_are_the_same_options(public, hub):
    flags = ["-O1", "--model-type", "transformer", "--target", "trn1"]
    files = stock_files(FOLDER, graph(), neff=NEFF)
    put(hub, {p: json.dumps(flags).encode() if p.endswith("json") else data for p, data in files.items()})
    assert ask(public, graph()) == NEFF


def test_one_text_of_options_is_read_as_a_shell_would(public, hub):
    files = stock_files(FOLDER, graph(), neff=NEFF)
    put(hub, {p: json.dumps(" ".join(FLAGS)).encode() if p.endswith("json") else data for p, data in files.items()})
    assert ask(public, graph()) == NEFF


def poison(files, **changes):
    """The same files, some with another content: by the name's end; None takes one away."""
    changed = {}
    for path, data in files.items():
        name = path.rpartition("/")[2]
        content = changes.get(name, data)
        if content is not None:
            changed[path] = content
    return changed


LOG = f"{FOLDER}/{module_name(graph(), list(FLAGS))}/model.log"
REFUSED = {
    "another graph": ({"model.hlo_module.pb": graph(7)}, "stock_other"),
    "no graph": ({"model.hlo_module.pb": None}, "stock_other"),
    "an empty graph": ({"model.hlo_module.pb": b""}, "stock_other"),
    "other options": ({"compile_flags.json": b'["--target=trn1", "--model-type=transformer", "-O2"]'}, "stock_other"),
    "another target": ({"compile_flags.json": b'["--target=trn2", "--model-type=transformer", "-O1"]'}, "stock_other"),
    "no target": ({"compile_flags.json": b'["--model-type=transformer", "-O1"]'}, "stock_other"),
    "options that are no list": ({"compile_flags.json": b'{"a": 1}'}, "remote_corrupt"),
    "options that are no JSON": ({"compile_flags.json": b"\xff\x00"}, "remote_corrupt"),
    "options that are no text": ({"compile_flags.json": b"[1, null]"}, "remote_corrupt"),
    "one option more": ({"compile_flags.json": json.dumps([*FLAGS, "--new"]).encode()}, "stock_other"),
    "no mark that it is done": ({"model.done": None}, "stock_unfinished"),
    "no NEFF": ({"model.neff": None}, "stock_unfinished"),
    "an empty NEFF": ({"model.neff": b""}, "stock_unfinished"),
    "a failure's log": ({LOG: b"it failed"}, "stock_unfinished"),
    "an empty wrapped NEFF": ({f"{LOG.removesuffix('model.log')}wrapped_neff.hlo": b""}, "stock_unfinished"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_entry_that_does_not_prove_itself_is_a_miss(public, hub, case):
    changes, incident = REFUSED[case]
    added = {path: changes[path] for path in changes if "/" in path}
    put(hub, {**poison(stock_files(FOLDER, graph(), neff=NEFF), **changes), **added})
    assert ask(public, graph()) != NEFF
    assert len(public.runs) == 1
    assert public.counters() == {"miss_stored": 1, incident: 1}
    assert public.leftovers() == []


def test_another_versions_entry_is_not_looked_at(public, hub):
    put(hub, stock_files("neuronxcc-2.13.0.0+00000000", graph(), neff=NEFF))
    assert ask(public, graph()) != NEFF
    assert public.counters() == {"miss_stored": 1}


def test_a_name_without_a_module_costs_no_request(public, hub):
    public.cc("compile", "--framework=XLA", public.model("graph.hlo", graph()), "--output=o.neff", *FLAGS)
    assert hub.count(path="compile_flags.json") == 0
    assert public.counters() == {"miss_stored": 1}


def test_a_miss_costs_one_request_more(public, hub):
    ask(public, graph())
    assert hub.count("resolve") == 2
    assert public.counters() == {"miss_stored": 1}


UNPROVABLE = {
    "a variable that the compiler reads": {"XLA_FLAGS": "--xla_x=1"},
    "debugging": {"XLA_IR_DEBUG": "1"},
    "a variable that the settings add": {"NEURON_STORE_KEY_ENV": "MINE", "MINE": "1"},
}


@pytest.mark.parametrize("case", UNPROVABLE)
def test_what_no_entry_tells_is_not_asked_for(public, hub, case):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    assert ask(public, graph(), **UNPROVABLE[case]) != NEFF
    assert public.counters() == {"miss_stored": 1, "stock_unprovable": 1}
    assert hub.count(path="compile_flags.json") == 0


def test_without_a_target_the_host_would_have_to_be_known(public, hub):
    put(hub, stock_files(FOLDER, graph(), ["-O1"], neff=NEFF))
    assert ask(public, graph(), "-O1") != NEFF
    assert public.counters() == {"miss_stored": 1, "stock_unprovable": 1}


def test_a_salted_key_is_ones_own_affair_and_is_served(public, hub):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    assert ask(public, graph(), NEURON_STORE_KEY_SALT="mine") == NEFF
    assert public.counters() == {"hit_stock": 1}


def test_exact_mode_wants_the_very_names(public, hub):
    files = stock_files(FOLDER, graph(), neff=NEFF)
    put(hub, {path: renamed(graph()) if path.endswith(".pb") else data for path, data in files.items()})
    assert ask(public, graph(), NEURON_STORE_DEBUG_INFO="exact") != NEFF
    assert public.counters() == {"miss_stored": 1, "stock_other": 1}


def test_the_setting_turns_the_look_off(public, hub):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    assert ask(public, graph(), NEURON_STORE_STOCK="0") != NEFF
    assert public.counters() == {"miss_stored": 1}


def test_by_name_alone_only_where_the_setting_says_so(public, hub):
    put(hub, poison(stock_files(FOLDER, graph(), neff=NEFF), **{"model.hlo_module.pb": graph(7)}))
    assert ask(public, graph(), NEURON_STORE_STOCK_BY_NAME="1", XLA_FLAGS="--x") == NEFF
    assert public.counters() == {"hit_stock_by_name": 1}
    (key,) = all_keys(public.layout)
    assert load_result(public.layout, key).provenance["stock"]["by_name"] is True


def test_by_name_a_failed_entry_is_still_none(public, hub):
    put(hub, {**stock_files(FOLDER, graph(), neff=NEFF), LOG: b"it failed"})
    assert ask(public, graph(), NEURON_STORE_STOCK_BY_NAME="1") != NEFF
    assert public.counters() == {"miss_stored": 1, "stock_unfinished": 1}


FAULTS = {
    "a flipped byte in the NEFF": ("cdn", "model.neff", FlipByte(9), "remote_corrupt"),
    "a flipped byte in the graph": ("cdn", "model.hlo_module.pb", FlipByte(9), "remote_corrupt"),
    "a flipped byte in the options": ("resolve", "compile_flags.json", FlipByte(9), "remote_corrupt"),
    "half a NEFF": ("cdn", "model.neff", Truncate(100), "remote_failed"),
    "500 for the NEFF": ("cdn", "model.neff", Status(500), "remote_failed"),
    "500 for the options": ("resolve", "compile_flags.json", Status(500), "remote_failed"),
    "429": ("resolve", "compile_flags.json", Status(429), "remote_failed"),
    "403": ("resolve", "compile_flags.json", Status(403), "remote_refused"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_on_the_way_is_a_miss(public, hub, case):
    kind, path, action, incident = FAULTS[case]
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    hub.fail(kind, action, path=path, times=None)
    assert ask(public, graph()) != NEFF
    assert public.counters() == {"miss_stored": 1, incident: 1}
    assert public.leftovers() == []


def test_a_shared_folder_of_that_layout_serves_too(host, tmp_path):
    cache = tmp_path / "cache"
    for path, data in stock_files(FOLDER, graph(), neff=NEFF).items():
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_bytes(data)
    host.use_remotes(f"file://{cache}|read-only")
    assert ask(host, graph()) == NEFF
    assert host.counters() == {"hit_stock": 1}


def test_a_result_of_our_own_in_any_remote_comes_first(public, hub, make_host):
    from remote_setup import publish

    maker = make_host("maker")
    made = ask(maker, graph())
    hub.add_user("alice", "hf_alice")
    publish(maker, "hf://alice/cache", hub)
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    public.env["NEURON_STORE_REMOTES"] = "hf://aws-neuron/optimum-neuron-cache|ro hf://alice/cache|ro"
    public.env["HF_TOKEN"] = "hf_alice"
    assert ask(public, graph()) == made
    assert public.counters() == {"hit_remote": 1}


def test_a_host_that_may_not_write_its_store_is_served(public, hub):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    assert ask(public, graph(), NEURON_STORE_READ_ONLY="1") == NEFF
    assert public.counters() == {"hit_stock": 1}


def test_64_ranks_fetch_it_once(public, hub):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    model = public.model(f"wd/model.{module_name(graph(), list(FLAGS))}.hlo_module.pb", graph())
    ranks = [
        public.start("compile", "--framework=XLA", model, f"--output={public.work}/{rank}.neff", *FLAGS)
        for rank in range(64)
    ]
    for rank in ranks:
        rank.communicate()
        assert rank.returncode == 0
    assert hub.count("resolve", path="model.neff") == 1
    counted = public.counters()
    assert counted["hit_stock"] == 1
    assert sum(counted[name] for name in counted if name.startswith("hit_")) == 64
    assert public.runs == []


def test_libneuronxla_itself_is_served_by_the_public_cache(public, hub, tmp_path):
    put(hub, stock_files(FOLDER, graph(), neff=NEFF))
    said, neff = stock(public, tmp_path / "cache", public.model("graph.pb", graph()))
    assert (said, neff) == ("compiled", NEFF)  # so it thinks
    assert public.runs == []
    assert public.counters() == {"hit_stock": 1, "pass_version": 1}
