"""Results become finished modules of a stock cache, for hosts without the shim."""

import json
import shutil

import pytest
from cli_remotes import answer, ns
from conftest import VERSION
from loopback_hub import Status
from stock_setup import FLAGS, FOLDER, graph, module_name, renamed, stock, write_entry

REPO = "alice/cache"


def compiled(host, tmp_path, count=3, form="training", flags=FLAGS):
    """Compile so many graphs as libneuronxla does, with the shim; return their files and NEFFs, and how many compiles."""
    models = [host.model(f"graph{number}.pb", graph(number)) for number in range(count)]
    neffs = [stock(host, tmp_path / "first", model, *flags, form=form)[1] for model in models]
    return models, neffs, len(host.runs)


@pytest.mark.parametrize(
    ("form", "flags"),
    [("training", FLAGS), ("inference", FLAGS), ("2023", ("--model-type=transformer", "--auto-cast=none"))],
)
def test_what_was_compiled_with_the_shim_is_found_without_it(host, tmp_path, form, flags):
    models, neffs, runs = compiled(host, tmp_path, form=form, flags=flags)
    told = ns(host, "export", tmp_path / "stock").stdout
    assert told.startswith("exported 3 modules (")
    for model, neff in zip(models, neffs, strict=True):
        assert stock(host, tmp_path / "stock", model, *flags, form=form, shim=False) == ("hit", neff)
    assert len(host.runs) == runs
    entry = tmp_path / "stock" / FOLDER / module_name(graph(), list(flags), form)
    name = "model.hlo.pb" if form == "2023" else "model.hlo_module.pb"
    assert sorted(path.name for path in entry.iterdir()) == ["compile_flags.json", "model.done", name, "model.neff"]
    assert json.loads((entry / "compile_flags.json").read_text()) == list(flags)
    assert (entry / name).read_bytes() == graph()
    assert (entry / "model.done").read_bytes() == b""


def test_what_is_there_stays(host, tmp_path):
    compiled(host, tmp_path, 2)
    ns(host, "export", tmp_path / "stock")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stock").rglob("*")}
    told = answer(host, "export", tmp_path / "stock")
    assert (told["exported"], told["left_out"]) == (0, {"present": 2})
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "stock").rglob("*")} == before


def test_a_failed_or_unfinished_entry_is_completed_and_a_locked_one_left(host, tmp_path):
    compiled(host, tmp_path, 3)
    failed, unfinished, locked = (
        tmp_path / "stock" / FOLDER / module_name(graph(number), list(FLAGS)) for number in range(3)
    )
    write_entry(failed, graph(0), FLAGS)
    (failed / "model.log").write_text("it failed")
    write_entry(unfinished, graph(1), FLAGS, neff=b"half", done=False)
    write_entry(locked, graph(2), FLAGS)
    (locked / "model.hlo_module.pb.lock").touch()
    told = answer(host, "export", tmp_path / "stock")
    assert (told["exported"], told["left_out"]) == (2, {"locked": 1})
    assert not (failed / "model.log").exists()
    assert stock(host, tmp_path / "stock", host.work / "graph0.pb", shim=False)[0] == "hit"
    assert stock(host, tmp_path / "stock", host.work / "graph1.pb", shim=False)[0] == "hit"


@pytest.mark.parametrize("left", [b"", b"half"])
@pytest.mark.parametrize("graphs", ["kept", "not kept"])
def test_what_a_killed_compile_left_is_no_part_of_the_entry(host, tmp_path, left, graphs):
    if graphs == "not kept":
        host.env["NEURON_STORE_KEEP_INPUTS_BYTES"] = "0"
    compiled(host, tmp_path, 1)
    entry = write_entry(tmp_path / "stock" / FOLDER / module_name(graph(), list(FLAGS)), graph()[:99], FLAGS)
    for name in ("wrapped_neff.hlo", "model.hlo.pb"):
        (entry / name).write_bytes(left)
    for exported in (1, 0):
        told = answer(host, "export", tmp_path / "stock")
        assert (told["exported"], told["left_out"]) == (exported, {} if exported else {"present": 1})
    there = {path.name for path in entry.iterdir()}
    assert there - {"model.hlo_module.pb"} == {"compile_flags.json", "model.done", "model.neff"}
    assert ("model.hlo_module.pb" in there) == (graphs == "kept")
    assert graphs == "not kept" or (entry / "model.hlo_module.pb").read_bytes() == graph()


def test_the_wrapped_neff_goes_with_it(host, tmp_path):
    model = host.model("graph.pb", graph())
    stock(host, tmp_path / "first", model, STANDIN_WRAPPED="w")
    ns(host, "export", tmp_path / "stock")
    (wrapped,) = (tmp_path / "stock").rglob("wrapped_neff.hlo")
    assert wrapped.read_bytes().startswith(b"wrapped w")


@pytest.mark.parametrize("form", ["json", "words", "both"])
def test_names_may_end_with_either_hash(host, tmp_path, form):
    compiled(host, tmp_path, 1)
    ns(host, "export", tmp_path / "stock", "--flags-hash", form)
    names = {path.name.rpartition("+")[2] for path in (tmp_path / "stock" / FOLDER).iterdir()}
    json_form, words_form = (
        module_name(graph(), list(FLAGS), form).rpartition("+")[2] for form in ("training", "2023")
    )
    assert names == {"json": {json_form}, "words": {words_form}, "both": {json_form, words_form}}[form]


def test_options_beside_the_facts_examples_are_reproduced():
    from neuron_store.store.stock.flags import json_hash, words_hash

    assert words_hash([]) == "d41d8cd9"
    assert words_hash(["--model-type=transformer", "--auto-cast=none"]) == "2c2d707e"
    assert json_hash([]) == "d7517139"
    assert json_hash(["--target=trn1"]) == "e30acd3a"
    flags = ["--target=trn1", "--model-type=cnn-training", "-O1", "--enable-saturate-infinity"]
    assert json_hash(flags) == "d505a3f8"


def test_without_its_graph_where_that_was_not_kept(host, tmp_path):
    host.env["NEURON_STORE_KEEP_INPUTS_BYTES"] = "0"
    models, neffs, _ = compiled(host, tmp_path, 1)
    told = answer(host, "export", tmp_path / "stock")
    assert (told["exported"], told["without_graph"]) == (1, 1)
    assert stock(host, tmp_path / "stock", models[0], shim=False) == ("hit", neffs[0])


def test_what_no_caller_would_look_for_or_should_not_find_is_told(host, tmp_path):
    host.cc("compile", host.model("graph.hlo", graph(1)), *FLAGS, "--output=o.neff")
    stock(host, tmp_path / "first", host.model("a.pb", graph(2)), XLA_FLAGS="--x")
    stock(host, tmp_path / "first", host.model("b.pb", graph(3)), "-O1")
    config = host.model("io.json", b"{}")
    stock(host, tmp_path / "first", host.model("c.pb", graph(4)), *FLAGS, f"--io-config={config}")
    told = answer(host, "export", tmp_path / "stock")
    assert told["exported"] == 0
    assert told["left_out"] == {"no_module": 1, "environment": 1, "no_target": 1, "file_option": 1}
    assert answer(host, "export", tmp_path / "stock", "--unprovable")["exported"] == 3


def test_a_result_whose_options_are_not_those_of_its_name_is_left_out(host, tmp_path):
    """Whoever asks by the name wants other options."""
    module = module_name(graph(), list(FLAGS))
    model = host.model(f"model.{module}.hlo_module.pb", graph())
    others = ["--target=trn1", "--model-type=transformer", "-O2"]
    host.cc("compile", "--framework=XLA", model, "--output", "o.neff", *others, "--verbose=35")
    assert answer(host, "export", tmp_path / "stock")["left_out"] == {"flags_differ": 1}
    assert list(tmp_path.glob("stock/*")) == []
    assert answer(host, "export", tmp_path / "stock", "--flags-hash", "json")["exported"] == 1
    assert [path.name for path in (tmp_path / "stock" / FOLDER).iterdir()] == [module_name(graph(), others)]
    assert stock(host, tmp_path / "stock", host.model("g.pb", graph()), shim=False)[0] == "compiled"


@pytest.mark.parametrize("given", [["--logfile=/there/log"], ["--logfile", "/there/log"], ["--verbose=35"]])
def test_options_that_count_for_no_key_are_known_by_the_hash(host, tmp_path, given):
    model = host.model("graph.pb", graph())
    flags = [*FLAGS, *given]
    stock(host, tmp_path / "first", model, *flags)
    assert answer(host, "export", tmp_path / "stock")["exported"] == 1
    assert stock(host, tmp_path / "stock", model, *flags, shim=False)[0] == "hit"
    (written,) = (tmp_path / "stock").rglob("compile_flags.json")
    assert json.loads(written.read_text()) == flags


def test_a_log_file_that_only_the_command_named_is_no_option_of_the_module(host, tmp_path):
    module = module_name(graph(), list(FLAGS))
    model = host.model(f"model.{module}.hlo_module.pb", graph())
    host.cc("compile", "--framework=XLA", model, "--output", "o.neff", *FLAGS, "--logfile=x.txt", "--verbose=35")
    assert answer(host, "export", tmp_path / "stock")["exported"] == 1
    (written,) = (tmp_path / "stock" / FOLDER / module).glob("compile_flags.json")
    assert json.loads(written.read_text()) == list(FLAGS)


def test_a_module_is_exported_under_every_name_that_was_asked_for(host, tmp_path):
    first, second = host.model("a.pb", graph()), host.model("b.pb", renamed(graph()))
    neffs = [stock(host, tmp_path / "first", model)[1] for model in (first, second)]
    assert len(host.runs) == 1
    assert answer(host, "export", tmp_path / "stock")["exported"] == 2
    for model, neff in zip((first, second), neffs, strict=True):
        assert stock(host, tmp_path / "stock", model, shim=False) == ("hit", neff)
    assert len(host.runs) == 1


def test_imported_modules_are_exported_as_they_were(host, tmp_path):
    flags = ["--target=trn1", "--lnc", "2", "--optlevel=1"]
    write_entry(tmp_path / f"c/{FOLDER}/{module_name(graph(), flags)}", graph(), flags, neff=b"NEFF")
    ns(host, "import", tmp_path / "c")
    ns(host, "export", tmp_path / "stock")
    before, after = (
        {path.relative_to(tmp_path / top).as_posix(): path.read_bytes() for path in (tmp_path / top).rglob("model*")}
        for top in ("c", "stock")
    )
    assert before == {name: data for name, data in after.items() if not name.endswith(".json")}
    (written,) = (tmp_path / "stock").rglob("compile_flags.json")
    assert json.loads(written.read_text()) == flags


def test_results_that_another_host_made_are_exported_too(host, tmp_path, make_host):
    """With the options that their callers gave, but for the place of a log file there."""
    (tmp_path / "shared").mkdir()
    host.use_remotes(f"file://{tmp_path}/shared")
    host.env["NEURON_STORE_UPLOAD"] = "0"
    flags = (*FLAGS, f"--logfile={tmp_path}/log-neuron-cc.txt")
    model = host.model("graph.pb", graph())
    _, neff = stock(host, tmp_path / "first", model, *flags)
    stock(host, tmp_path / "first", model, *FLAGS, "--tensorizer-options=--dump=/home/someone/x")
    ns(host, "push")
    other = make_host("other")
    other.use_remotes(f"file://{tmp_path}/shared")
    ns(other, "pull", "--all")
    told = answer(other, "export", tmp_path / "stock")
    assert (told["exported"], told["left_out"]) == (1, {"no_flags": 1})
    assert stock(other, tmp_path / "stock", model, *flags, shim=False) == ("hit", neff)
    (written,) = (tmp_path / "stock").rglob("compile_flags.json")
    assert json.loads(written.read_text()) == list(FLAGS)


def test_a_damaged_result_is_left_out(host, tmp_path):
    compiled(host, tmp_path, 1)
    for blob in (host.store / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o644)
            blob.write_bytes(b"rot")
    assert answer(host, "export", tmp_path / "stock")["left_out"] == {"corrupt": 1}
    assert [
        path for path in (tmp_path / "stock").rglob("*") if path.is_file() and path.name != "compile_flags.json"
    ] == []


def test_keys_and_compilers_choose(host, tmp_path):
    compiled(host, tmp_path, 2)
    from neuron_store.store.results import all_keys

    key = next(iter(all_keys(host.layout)))
    assert answer(host, "export", tmp_path / "one", key[:12])["exported"] == 1
    assert answer(host, "export", tmp_path / "none", "--compiler", "9.9")["exported"] == 0
    assert answer(host, "export", tmp_path / "all", "--compiler", VERSION[:4])["exported"] == 2
    assert "no result" in ns(host, "export", tmp_path / "x", "0123456789ab", code=1).stderr


def test_a_folder_may_be_written_as_a_url(host, tmp_path):
    compiled(host, tmp_path, 1)
    assert answer(host, "export", f"file://{tmp_path}/stock")["exported"] == 1
    assert (tmp_path / "stock" / FOLDER / module_name(graph(), list(FLAGS)) / "model.done").exists()
    assert "read-only" in ns(host, "export", f"file://{tmp_path}/stock|read-only", code=2).stderr


@pytest.mark.parametrize(
    "destination", ["", "https://huggingface.co/a/b", "hf:/a/b", "file:/x", "file://x/y", "hf://a"]
)
def test_what_is_neither_a_folder_nor_a_repo_is_a_usage_error(host, destination):
    before = sorted(host.work.iterdir())
    ns(host, "export", destination, code=2)
    assert sorted(host.work.iterdir()) == before


def test_a_store_without_a_result_is_said_to_be_one(host, tmp_path):
    assert f"there is no result in {host.store} yet" in ns(host, "export", tmp_path / "stock").stderr


# -- repos -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def connected(host, hub):
    host.use_remotes("none", hub=hub)
    host.env["NEURON_STORE_UPLOAD_RETRY"] = "0.01"
    return host


def test_a_repo_of_that_layout_serves_the_shim_and_imports(connected, hub, tmp_path, make_host):
    models, neffs, _ = compiled(connected, tmp_path)
    assert answer(connected, "export", f"hf://{REPO}")["exported"] == 3
    assert len(hub.commits(REPO)) == 1
    other = make_host("other")
    other.use_remotes(f"hf://{REPO}|read-only", hub=hub)
    shutil.copy(models[1], other.work)
    assert stock(other, tmp_path / "new", other.work / models[1].name)[1] == neffs[1]
    assert other.runs == []
    assert answer(other, "import", f"hf://{REPO}") | {"seconds": 0} == {
        "source": f"hf://{REPO}", "imported": 2, "bytes": 4000, "present": 1, "left_out": {},
        "modules_left_out": [], "faults": [], "seconds": 0,
    }  # fmt: skip


def test_again_sends_nothing(connected, hub, tmp_path):
    compiled(connected, tmp_path)
    ns(connected, "export", f"hf://{REPO}")
    sent = hub.count("lfs-put")
    told = answer(connected, "export", f"hf://{REPO}")
    assert (told["exported"], told["left_out"]) == (0, {"present": 3})
    assert (hub.count("lfs-put"), len(hub.commits(REPO))) == (sent, 1)


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
@pytest.mark.parametrize("effect", ["before", "after"])
def test_a_commit_that_fails_is_looked_up_and_made_once(connected, hub, tmp_path, status, effect):
    compiled(connected, tmp_path)
    hub.fail("commit", Status(status, when=effect))
    assert answer(connected, "export", f"hf://{REPO}")["exported"] == 3
    assert len(hub.commits(REPO)) == 1
    assert sum(path.endswith("model.done") for path in hub.files(REPO)) == 3


def test_without_the_right_to_write_that_is_said(connected, hub, tmp_path):
    hub.add_user("bob", "hf_bob")
    compiled(connected, tmp_path, 1)
    said = ns(connected, "export", f"hf://{REPO}", code=1, HF_TOKEN="hf_bob").stderr
    assert "may not write to" in said
    assert "read-only" in ns(connected, "export", f"hf://{REPO}|read-only", code=2).stderr
    assert "aws s3 sync" in ns(connected, "export", "s3://bucket/cache", code=2).stderr
