"""`create`, `set`, `list NAME`, `remote status`, `show --as-uploaded`: what remotes there are, and what is in them."""

import json
import re

import pytest
from cli_remotes import USERS, answer, compile_modules, connect, ns, saved
from loopback_hub import Drop, Stall, Status, start_hub

from neuron_store.store.remotes.state import RemoteState
from neuron_store.store.results import load_result

VERSION = "2.14.227.0+2d4f85be"
FOLDER = f"neuronxcc-{VERSION}"


@pytest.fixture
def hub():
    with start_hub(users=USERS) as hub:
        hub.create_repo("alice/cache", private=True)
        yield hub


@pytest.fixture
def online(host, hub):
    return connect(host, hub)


@pytest.fixture
def folder(host):
    """A shared folder that is the host's remote."""
    path = host.base / "shared"
    path.mkdir()
    host.env.update(NEURON_STORE_REMOTES=f"file://{path}", NEURON_STORE_UPLOAD="false")
    return path


# -- create --------------------------------------------------------------------------------------------------------


def test_create_says_what_optimum_neuron_says_and_saves_the_name(online, hub):
    done = ns(online, "create")
    path = online.home / "hf/optimum_neuron_custom_cache"
    assert done.stdout == (
        "Neuron cache created on the Hugging Face Hub: alice/optimum-neuron-cache [private].\n"
        f"Neuron cache name set locally to alice/optimum-neuron-cache in {path}.\n"
    )
    assert done.stderr == ""
    assert saved(online) == "alice/optimum-neuron-cache"
    assert "alice/optimum-neuron-cache" in hub.repos()
    assert hub._repo("alice/optimum-neuron-cache").private


@pytest.mark.parametrize(
    ("options", "repo", "kind"),
    [
        (("--public",), "alice/optimum-neuron-cache", "public"),
        (("-n", "mine"), "alice/mine", "private"),
        (("--name", "alice/mine", "--public"), "alice/mine", "public"),
    ],
)
def test_create_with_a_name_and_for_everyone(online, hub, options, repo, kind):
    assert f": {repo} [{kind}]." in ns(online, "create", *options).stdout
    assert hub._repo(repo).private == (kind == "private")
    assert saved(online) == repo


def test_a_repo_that_exists_is_used_as_it_is(online, hub):
    done = ns(online, "create", "--name", "cache", "--public")
    assert done.stdout.startswith("Neuron cache exists already on the Hugging Face Hub: alice/cache [private].\n")
    assert "it stays private" in done.stderr
    assert hub._repo("alice/cache").private
    assert saved(online) == "alice/cache"


@pytest.mark.parametrize(
    ("name", "token", "code", "said"),
    [
        ("cache", "hf_reader", 1, "may not create reader/cache"),
        ("bob/cache", "hf_alice", 1, "may not create bob/cache"),
        ("cache", "hf_nobody", 1, "does not know this token"),
        ("cache", None, 1, "hf auth login"),
        ("alice/two words", "hf_alice", 2, "no name of a repo"),
        ("alice/a/b", "hf_alice", 2, "no name of a repo"),
        ("datasets/alice/x", "hf_alice", 2, "plain name"),
    ],
)
def test_what_cannot_be_created_gets_a_sentence(online, hub, name, token, code, said):
    before = hub.repos()
    assert said in ns(online, "create", "--name", name, code=code, HF_TOKEN=token).stderr
    assert hub.repos() == before
    assert saved(online) is None


@pytest.mark.parametrize("fault", [Status(500), Status(429, headers={"Retry-After": "1"}), Drop()])
def test_a_hub_that_fails_gets_a_sentence(online, hub, fault):
    hub.fail(None, fault, times=None)
    ns(online, "create", code=1)
    ns(online, "set", "alice/cache", code=1)
    assert saved(online) is None


def test_the_hub_is_not_asked_where_the_user_wants_to_stay_offline(online, hub):
    for words in (["create"], ["set", "alice/cache"], ["list", "alice/cache"]):
        assert "HF_HUB_OFFLINE" in ns(online, *words, code=1, HF_HUB_OFFLINE="1").stderr
    assert hub.count() == 0


def test_a_folder_that_cannot_be_written_gets_a_sentence(online):
    (online.home / "hf").write_text("a file")
    assert "set HF_HOME to another folder" in ns(online, "set", "alice/cache", code=2).stderr


# -- set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice/cache", "hf://alice/cache"])
def test_set_saves_the_name_of_a_repo_that_exists(online, name):
    done = ns(online, "set", name)
    path = online.home / "hf/optimum_neuron_custom_cache"
    assert done.stdout == f"Neuron cache name set locally to alice/cache in {path}.\n"
    assert saved(online) == "alice/cache"


@pytest.mark.parametrize(
    ("name", "token", "code", "said"),
    [
        ("alice/absent", "hf_alice", 1, "neuron-store create --name alice/absent"),
        ("alice/cache", "hf_bob", 1, "no right to see it with this token"),
        ("alice/cache", None, 1, "no right to see it without a token"),
        ("cache", "hf_alice", 2, "org/name"),
        ("alice/cache@main", "hf_alice", 2, "config set remotes"),
        ("file:///tmp", "hf_alice", 2, "no name of a repo"),
        ("", "hf_alice", 2, "is empty"),
    ],
)
def test_what_cannot_be_set_gets_a_sentence(online, name, token, code, said):
    assert said in ns(online, "set", name, code=code, HF_TOKEN=token).stderr
    assert saved(online) is None


def test_set_says_what_comes_before_it_or_keeps_it_from_use(online):
    assert "CUSTOM_CACHE_REPO is set" in ns(online, "set", "alice/cache", CUSTOM_CACHE_REPO="x/y").stderr
    done = ns(online, "set", "alice/cache", NEURON_STORE_REMOTES="none")
    assert "not used as long as NEURON_STORE_REMOTES is none" in done.stderr
    assert ns(online, "set", "alice/cache").stderr == ""


# -- list ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["hub", "folder"])
def filled(request, host):
    """A host with three results, and the name of a remote that has them, among other things."""
    if request.param == "hub":
        hub = request.getfixturevalue("hub")
        connect(host, hub)
        name = "alice/cache"
        hub.put_file(name, f"{FOLDER}/MODULE_1+2/model.neff", b"of the stock cache")
        hub.put_file(name, f"{FOLDER}/0_REGISTRY/0.1/llama/x.json", b"{}")
        hub.put_file(name, "neuronxcc-1.0/MODULE_3+4/model.neff", b"of the stock cache")
        hub.put_file(name, "README.md", b"hello")
    else:
        path = request.getfixturevalue("folder")
        name = f"file://{path}"
        (path / "neuronxcc-1.0/MODULE_3+4").mkdir(parents=True)
        (path / "notes").write_text("hello")
    compile_modules(host, 3, STANDIN_SIZE=3000)
    ns(host, "push")
    return host, name


def test_list_shows_the_compiler_versions_of_a_remote(filled):
    host, name = filled
    done = ns(host, "list", name)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["compiler", "results", "stored", "models", "entries"],
        [VERSION, "3", "9.0", "kB", "0", "0"],
    ]
    assert done.stderr == "neuron-store: 1 compiler version has only what others keep there\n"
    url = name if "://" in name else f"hf://{name}"
    held = {"compiler": VERSION, "results": 3, "bytes": 9000, "models": 0, "entries": 0}
    assert answer(host, "list", name) == {"remote": url, "versions": [held]}
    assert answer(host, "list", "--remote") == {"remote": url, "versions": [held]}


def test_list_shows_the_results_of_a_remote(filled):
    host, name = filled
    rows = answer(host, "list", name, "-v", "2.14")
    assert {row["module"] for row in rows} == {"model0.pb", "model1.pb", "model2.pb"}
    local = {row["key"]: row for row in answer(host, "list")}
    for row in rows:
        assert row["compiler"] == VERSION
        assert row["size"] == local[row["key"]]["size"]
        assert row["stored"] == 3000
        assert row["seconds"] == local[row["key"]]["seconds"]
    (row,) = answer(host, "list", name, "--module", "model1")
    assert row["module"] == "model1.pb"
    assert answer(host, "list", name, "--module", "nothing of the kind") == []
    table = ns(host, "list", name, "--module", "model", "--version", "2").stdout.splitlines()
    assert table[0].split() == ["key", "size", "stored", "compile", "age", "compiler", "module"]
    assert len(table) == 4


def test_list_stops_at_a_limit_and_says_so(filled):
    host, name = filled
    done = ns(host, "list", name, "-v", "2", "-n", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "looked at 2 of 3 results" in done.stderr
    assert len(answer(host, "list", name, "--module", "model", "-n", "1")) == 1
    assert len(answer(host, "list", name, "--module", "model", "--sort", "seconds")) == 3
    ns(host, "list", name, "--module", "model", "--sort", "hits", code=2)


def test_list_says_what_is_not_there(filled):
    host, name = filled
    assert "it has" in ns(host, "list", name, "-v", "9", code=1).stderr
    assert "none of the 3 results" in ns(host, "list", name, "--module", "nothing").stderr
    assert "there is no result in" in ns(host, "list", name, "-v", "1.0").stderr
    ns(host, "list", "alice/absent", code=1)
    ns(host, "list", "file:///absent/absent", code=1)
    assert "no remote" in ns(host, "list", "absent", code=2).stderr
    assert "no remote" in ns(host, "list", "--remote", code=1, NEURON_STORE_REMOTES="none").stderr


def test_list_leaves_out_records_that_cannot_be_believed(online, hub):
    compile_modules(online, 2)
    ns(online, "push")
    path = next(path for path in hub.files("alice/cache") if path.endswith(".json"))
    hub.corrupt("alice/cache", path, b"{}")
    done = ns(online, "list", "alice/cache", "-v", "2")
    assert len(done.stdout.splitlines()) == 2
    assert "left out 1 record that cannot be believed" in done.stderr


def test_list_follows_the_pages_of_a_long_listing(host):
    with start_hub(users=USERS, page_size=3) as hub:
        hub.create_repo("alice/cache")
        connect(host, hub)
        compile_modules(host, 5)
        ns(host, "push")
        assert answer(host, "list", "alice/cache")["versions"][0]["results"] == 5
        assert len(answer(host, "list", "alice/cache", "-v", "2")) == 5


@pytest.mark.parametrize("place", ["name", "field", "format"])
def test_what_a_remote_says_cannot_play_tricks_on_a_terminal(host, folder, place):
    compile_modules(host, 1)
    ns(host, "push")
    (path,) = folder.rglob("*.json")
    record = json.loads(path.read_text())
    evil = "\x1b[2Jevil\r"
    if place == "name":
        record["input"]["name"] = evil
    elif place == "field":
        record["components"][1]["fields"].append(evil)
    else:
        record["outputs"][0]["encoding"] = evil
    path.write_text(json.dumps(record))
    host.env["NEURON_STORE_DIR"] = str(host.base / "other")
    commands = [
        ["list", f"file://{folder}", "-v", "2"],
        ["pull", "--all"],
        ["list"],
        ["show", record["key"]],
        ["explain"],
    ]
    for words in commands:
        done = host.cli(*words, check=False)
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_as_uploaded_is_exactly_what_is_uploaded(online, hub):
    (key,) = compile_modules(online, 1)
    shown = ns(online, "show", key[:8], "--as-uploaded")
    listed = answer(online, "show", key, "--as-uploaded")
    ns(online, "push")
    files = hub.files("alice/cache")
    assert shown.stdout.encode() == files[listed["path"]]
    assert listed["record"] == json.loads(files[listed["path"]])
    assert {file["path"]: file["size"] for file in listed["files"]} == {
        path: len(data) for path, data in files.items() if path != listed["path"]
    }
    for path in files:
        assert path in shown.stderr
    assert str(online.base) not in shown.stdout


def test_show_as_uploaded_says_why_a_result_is_not(online):
    (key,) = compile_modules(online, 1)
    path = online.layout.result_path(key)
    result = load_result(online.layout, key)
    del result.input["proof"]
    from neuron_store.store.results import encode_result

    with open(path, "wb") as file:
        file.write(encode_result(result))
    assert "no proof" in ns(online, "show", key, "--as-uploaded", code=1).stderr


@pytest.mark.parametrize("with_inputs", ["false", "true"])
def test_commands_get_along_with_fetched_results(host, folder, make_host, with_inputs):
    host.env["NEURON_STORE_UPLOAD_INPUTS"] = with_inputs
    keys = compile_modules(host, 2)
    ns(host, "push")
    other = make_host("other")
    other.env.update(NEURON_STORE_REMOTES=f"file://{folder}", NEURON_STORE_UPLOAD="false")
    ns(other, "pull", "--all")
    shown = ns(other, "show", keys[0]).stdout
    assert f"file://{folder}" in shown
    assert "None" not in shown
    assert not re.search("^(command|directory) ", shown, re.MULTILINE)
    answer(other, "show", keys[0])
    assert "whole" in ns(other, "verify").stdout
    audited = {found["outcome"] for found in answer(other, "verify", "--recompile", "2")["audited"]}
    explained = ns(other, "explain", keys[0]).stdout
    assert "model0.pb" in explained
    if with_inputs == "true":
        assert audited == {"audit_same"}
        assert "no input is kept" not in explained
    else:
        assert audited == {"audit_skipped"}
        assert "without its inputs" in ns(other, "verify", "--recompile", "1").stdout
    assert len(answer(other, "list")) == 2
    said = ns(other, "show", keys[0], "--as-uploaded").stderr
    assert "not queued for upload again" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["inputs"][0].update(name="../../../escaped"), "leads elsewhere"),
        (lambda r: r["inputs"][0].update(name="/tmp/escaped-neuron-store"), "leads elsewhere"),
        (lambda r: r["inputs"][0].update(kind="kernel", name="a/../escaped"), "graph is not among"),
        (lambda r: r["components"][1]["fields"].append("--logfile=escaped"), "would differ"),
        (lambda r: r["components"][1]["fields"].append("--logfile=/tmp/escaped"), "names a path"),
        (lambda r: r["components"][2]["fields"].append("LD_PRELOAD=escaped.so"), "key_env does not name"),
        (lambda r: r["components"][2]["fields"].append("XLA_FLAGS=--xla_dump_to=/tmp"), "names a path"),
    ],
)
def test_what_others_record_is_not_compiled_again_where_it_could_do_harm(host, folder, make_host, change, said):
    host.env["NEURON_STORE_UPLOAD_INPUTS"] = "true"
    compile_modules(host, 1)
    ns(host, "push")
    (path,) = folder.rglob("*.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    other = make_host("other")
    other.env.update(NEURON_STORE_REMOTES=f"file://{folder}")
    ns(other, "pull", "--all")
    (verdict,) = answer(other, "verify", "--recompile", "1")["audited"]
    assert verdict["outcome"] == "audit_skipped"
    assert said in verdict["detail"]
    assert other.runs == []
    assert not list(other.base.rglob("*escaped*"))


# -- remote status -------------------------------------------------------------------------------------------------


def test_remote_status_tells_what_is_configured_and_whether_it_works(online, hub):
    compile_modules(online, 2)
    online.env["NEURON_STORE_REMOTES"] = "hf://alice/cache file:///absent/absent|read-only nonsense"
    found = answer(online, "remote", "status")
    first, second = found["remotes"]
    assert (first["url"], first["mode"], first["source"]) == ("hf://alice/cache", "read-write", "NEURON_STORE_REMOTES")
    assert (first["reachable"], first["readable"], first["writable"]) == (True, True, True)
    assert (first["queued"], first["commits_left"], first["last_error"]) == (2, 30, "")
    assert (second["url"], second["mode"]) == ("file:///absent/absent", "read-only")
    assert (second["reachable"], second["readable"], second["queued"]) == (False, None, 0)
    assert len(found["faults"]) == 1
    assert found["uploader_runs"] is False
    done = ns(online, "remote", "status", NEURON_STORE_REMOTES="hf://alice/cache|read-only")
    assert "reachable; may read\n" in done.stdout
    done = ns(online, "remote", "status")
    assert "may read, may write" in done.stdout
    assert re.search(r"queue +2 results, the oldest \d+ s ago", done.stdout)
    assert "cannot be reached" in done.stdout
    assert "nonsense" in done.stderr


def test_remote_status_after_an_upload_and_a_refusal(online, hub):
    compile_modules(online, 1)
    ns(online, "push")
    assert answer(online, "remote", "status")["remotes"][0]["commits_left"] == 29
    compile_modules(online, 1, first=1)
    ns(online, "push", code=1, HF_TOKEN="hf_bob")
    (status,) = answer(online, "remote", "status", HF_TOKEN="hf_bob")["remotes"]
    assert (status["reachable"], status["readable"], status["queued"]) == (True, False, 1)
    assert status["refused"]
    assert status["last_error"]
    (status,) = answer(online, "remote", "status")["remotes"]
    assert (status["writable"], status["refused"]) == (True, "")


def test_remote_status_tells_of_a_read_only_token_and_a_pause(online, hub):
    hub.create_repo("alice/open")
    online.env["NEURON_STORE_REMOTES"] = "hf://alice/open"
    (status,) = answer(online, "remote", "status", HF_TOKEN="hf_reader")["remotes"]
    assert (status["readable"], status["writable"]) == (True, False)
    assert "may read, may NOT write" in ns(online, "remote", "status", HF_TOKEN="hf_reader").stdout
    identity = next(iter(online.store.glob("remotes/*")), None)
    assert identity is None
    hub.fail(None, Status(503), times=None)
    online.cc("compile", "--target=trn1", "--output=o.neff", online.model())
    assert answer(online, "remote", "status")["remotes"][0]["paused_until"]
    assert "compiles do not ask it for another" in ns(online, "remote", "status").stdout


@pytest.mark.parametrize("fault", [Status(500), Drop(), Stall(60)])
def test_remote_status_of_a_hub_that_fails(online, hub, fault):
    hub.fail(None, fault, times=None)
    (status,) = answer(online, "remote", "status", NEURON_STORE_UPLOAD_TIMEOUT="1")["remotes"]
    assert (status["reachable"], status["readable"]) == (False, None)
    assert status["detail"]


def test_remote_status_tells_what_waits_for_a_remote_that_is_no_longer_configured(online):
    compile_modules(online, 2)
    found = answer(online, "remote", "status", NEURON_STORE_REMOTES="none")["remotes"]
    assert [status["queued"] for status in found] == [2]
    assert "nowhere any more" in found[0]["source"]
    assert "2 results" in ns(online, "remote", "status", NEURON_STORE_REMOTES="none").stdout


def test_remote_status_without_a_remote_says_how_to_get_one(host):
    done = ns(host, "remote", "status")
    assert "NEURON_STORE_REMOTES is none" in done.stderr
    assert answer(host, "remote", "status") == {"remotes": [], "faults": [], "uploader_runs": False}


def test_remote_status_names_where_a_remote_comes_from(online, hub):
    ns(online, "set", "alice/cache")
    (first, second) = answer(
        online, "remote", "status", NEURON_STORE_REMOTES=None, HF_HUB_OFFLINE="1", CUSTOM_CACHE_REPO=None
    )["remotes"]
    assert first["source"] == str(online.home / "hf/optimum_neuron_custom_cache")
    assert (second["source"], second["mode"]) == ("the default of remotes", "read-only")
    assert second["reachable"] is None
    first = answer(online, "remote", "status", CUSTOM_CACHE_REPO="bob/x", HF_HUB_OFFLINE="1")["remotes"][0]
    assert (first["url"], first["source"]) == ("hf://bob/x", "CUSTOM_CACHE_REPO")


# -- config and stats ----------------------------------------------------------------------------------------------


def test_config_set_remotes_writes_a_list_and_refuses_what_is_no_remote(host):
    config = host.home / ".config/neuron-store/config.toml"
    done = ns(host, "config", "set", "remotes", " hf://a/b  file:///x|read-only ")
    assert done.stdout == f"remotes = hf://a/b file:///x|read-only in {config}\n"
    assert config.read_text() == 'remotes = ["hf://a/b", "file:///x|read-only"]\n'
    ns(host, "config", "set", "remotes", "hf://a/b https://x", code=2)
    ns(host, "config", "set", "remotes", "hf://a/b|sometimes", code=2)
    assert config.read_text() == 'remotes = ["hf://a/b", "file:///x|read-only"]\n'
    ns(host, "config", "set", "remotes", "none")
    assert config.read_text() == 'remotes = ["none"]\n'


def test_config_tells_what_is_wrong_with_remotes(host):
    done = ns(host, "config", NEURON_STORE_REMOTES="hf://a/b hf://broken")
    assert "'hf://broken'" in done.stderr
    assert re.search(r"remotes +hf://a/b hf://broken +NEURON_STORE_REMOTES", done.stdout)


def test_stats_tell_what_is_queued_and_who_refuses_it(online):
    assert ns(online, "stats").stderr == ""
    compile_modules(online, 2)
    assert "2 results are queued for hf://alice/cache" in ns(online, "stats").stderr
    ns(online, "push", code=1, HF_TOKEN="hf_bob")
    said = ns(online, "stats", HF_TOKEN="hf_bob").stderr
    assert "hf://alice/cache takes no results from us" in said
    assert "2 results are queued" in said
    (queue,) = answer(online, "stats")["queues"]
    assert (queue["url"], queue["queued"], queue["refused"]) == ("hf://alice/cache", 2, "")
    ns(online, "push")
    assert ns(online, "stats").stderr == ""
    assert "upload_done" in ns(online, "stats").stdout


def test_a_state_file_that_is_damaged_harms_no_command(online):
    compile_modules(online, 1)
    ns(online, "push")
    for path in (online.store / "remotes").iterdir():
        state = RemoteState(online.layout, path.name, "")
        assert state.commits_in_hour()
        path.write_text('{"commits": "many", "refused": 7, "last_error_at": {}, "skip_until": [], "xet": "x"}')
    for words in (["remote", "status"], ["stats"], ["push"], ["pull", "--all"]):
        ns(online, *words)


CREDENTIALS = ["hf://alice:SECRET@org/name", "hf://alice:SE/SECRET@org/name|read-only", "alice:SECRET@org/name"]
TELLING = (
    ["config"],
    ["config", "--json"],
    ["remote", "status"],
    ["remote", "status", "--json"],
    ["gc", "--remote", "--max-count", "1"],
    ["push"],
    ["synchronize"],
    ["pull", "--all"],
    ["stats"],
    ["verify", "--remote", "all"],
    ["doctor", "--offline"],
)


@pytest.mark.parametrize("words", TELLING, ids=" ".join)
def test_who_an_address_says_we_are_is_never_printed(host, words):
    done = host.cli(*words, check=False, NEURON_STORE_REMOTES=" ".join(CREDENTIALS), COLUMNS="60")
    said = "".join((done.stdout + done.stderr).split())
    assert "Traceback" not in said
    assert not re.search("alice|SECRET|SE/", said)
    assert words == ["stats"] or "<token>@org/name" in said


@pytest.mark.parametrize("word", CREDENTIALS)
def test_who_a_named_remote_says_we_are_is_not_said_back(host, word):
    for words in (["list", word], ["verify", "--remote", word], ["config", "set", "remotes", word], ["set", word]):
        done = host.cli(*words, check=False)
        assert done.returncode
        assert "SECRET" not in done.stdout + done.stderr
