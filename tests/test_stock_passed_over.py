"""What lies in and beside a stock cache and is called like a module: taken if it is one, counted with a reason if not."""

import json
import subprocess

import pytest
from cli_remotes import answer, connect, ns
from conftest import VERSION
from stock_setup import FLAGS, FOLDER, graph, stock_files, write_entry
from test_stock_import_faults import as_a_user_with_limits

from neuron_store.store.results import all_keys, load_result

MODULE = "MODULE_1+d7517139"
ODD = {
    f"{FOLDER}/MODULE_3": "odd_name",
    f"{FOLDER}/MODULE_SyncTensorsGraph.3+d7517139": "odd_name",
    f"{FOLDER}/MODULE_{'1' * 70}+d7517139": "odd_name",
    f"{FOLDER}/MODULE_2+D7517139": "odd_name",
    f"neuronxcc-dev1/{MODULE}": "odd_version",
    f"elsewhere/{MODULE}": "no_version_folder",
}


def make_entry(folder):
    return write_entry(folder, graph(), FLAGS, neff=b"NEFF")


def pack(folder, path):
    subprocess.run(["tar", "-cf", path, "-C", folder, "."], check=True)
    return path


@pytest.mark.parametrize("kind", ["folder", "tarball"])
def test_what_is_called_like_a_module_and_is_none_is_counted(host, tmp_path, kind):
    for place in [f"{FOLDER}/{MODULE}", *ODD]:
        make_entry(tmp_path / "cache" / place)
    source = tmp_path / "cache" if kind == "folder" else pack(tmp_path / "cache", tmp_path / "c.tar")
    told = answer(host, "import", source)
    assert (told["imported"], told["left_out"]) == (1, {"odd_name": 4, "odd_version": 1, "no_version_folder": 1})
    above = f"{source}/" if kind == "folder" else ""
    assert {left["module"]: left["reason"] for left in told["modules_left_out"]} == {
        above + place: reason for place, reason in ODD.items()
    }


def test_status_counts_it_too(host, tmp_path):
    for place in [f"{FOLDER}/{MODULE}", *ODD]:
        make_entry(tmp_path / "cache" / place)
    told = answer(host, "stock", "status", tmp_path / "cache")
    assert told["passed_over"] == {"odd_name": 4, "odd_version": 1, "no_version_folder": 1}
    assert told["versions"][VERSION]["finished"] == 1
    assert "odd_version" in ns(host, "stock", "status", tmp_path / "cache").stdout


def test_of_a_repo_it_is_counted_too(host, hub):
    connect(host, hub)
    hub.put_files("alice/cache", stock_files(FOLDER, graph(), neff=b"NEFF"))
    hub.put_files("alice/cache", {f"{FOLDER}/MODULE_3/model.neff": b"x", f"{FOLDER}/MODULE_4/below/model.neff": b"x"})
    told = answer(host, "import", "hf://alice/cache")
    assert (told["imported"], told["left_out"]) == (1, {"odd_name": 2})


@pytest.mark.parametrize("packed", [FOLDER, f"{FOLDER}/{MODULE}"])
def test_a_tarball_that_does_not_tell_its_compiler_is_said_to_be_one(host, tmp_path, packed):
    make_entry(tmp_path / f"cache/{FOLDER}/{MODULE}")
    parent, _, name = f"cache/{packed}".rpartition("/")
    subprocess.run(["tar", "-cf", tmp_path / "named.tar", "-C", tmp_path / parent, name], check=True)
    bare = pack(tmp_path / f"cache/{FOLDER}", tmp_path / "bare.tar")
    said = ns(host, "import", bare).stdout
    assert "no_version_folder" in said
    assert "pack it with it" in " ".join(said.split())
    told = answer(host, "import", tmp_path / "named.tar")
    expected = (1, {}) if packed == FOLDER else (0, {"no_version_folder": 1})
    assert (told["imported"], told["left_out"]) == expected


def test_an_entry_in_no_versions_folder_that_is_named_itself_is_counted(host, tmp_path):
    make_entry(tmp_path / MODULE)
    assert answer(host, "import", tmp_path / MODULE)["left_out"] == {"no_version_folder": 1}


def test_entries_are_found_however_deep_they_lie(host, tmp_path):
    deep = tmp_path / "cache" / "/".join("abcdefghijkl")
    make_entry(deep / FOLDER / MODULE)
    assert answer(host, "import", tmp_path / "cache")["imported"] == 1


@pytest.mark.parametrize("target", ["disk", FOLDER])
def test_a_versions_folder_may_be_a_link_to_another_disk(host, tmp_path, target):
    make_entry(tmp_path / "other" / target / MODULE)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FOLDER).symlink_to(tmp_path / "other" / target)
    assert answer(host, "import", tmp_path / "cache")["imported"] == 1
    (key,) = all_keys(host.layout)
    assert load_result(host.layout, key).provenance["compiler_version"] == VERSION


def test_a_link_from_one_version_to_another_is_not_believed(host, tmp_path):
    make_entry(tmp_path / "cache/neuronxcc-2.13.0.0+00000000" / MODULE)
    (tmp_path / "cache" / FOLDER).symlink_to("neuronxcc-2.13.0.0+00000000")
    told = answer(host, "import", tmp_path / "cache")
    assert (told["imported"], told["left_out"]) == (1, {"linked": 1})
    (key,) = all_keys(host.layout)
    assert load_result(host.layout, key).provenance["compiler_version"] == "2.13.0.0+00000000"


def test_status_tells_of_a_versions_link_as_of_what_cleanup_leaves_alone(host, tmp_path):
    make_entry(tmp_path / "other" / FOLDER / MODULE)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FOLDER).symlink_to(tmp_path / "other" / FOLDER)
    assert answer(host, "stock", "status", tmp_path / "cache")["passed_over"] == {"linked": 1}


def test_links_that_lead_in_a_circle_are_no_way(host, tmp_path):
    make_entry(tmp_path / "cache" / FOLDER / MODULE)
    (tmp_path / "cache" / FOLDER / FOLDER).symlink_to("..")
    (tmp_path / "cache/neuronxcc-2.13.0.0").symlink_to("neuronxcc-2.13.0.0")
    assert answer(host, "import", tmp_path / "cache")["imported"] == 1


def test_a_folder_that_cannot_be_read_is_told(host, tmp_path):
    cache = tmp_path / "cache"
    for folder in (FOLDER, "neuronxcc-2.13.0.0", "private/neuronxcc-2.13.0.0"):
        make_entry(cache / folder / MODULE)
    (cache / "neuronxcc-2.13.0.0").chmod(0)
    (cache / "private").chmod(0)
    told = json.loads(as_a_user_with_limits(host, "import", cache).stdout)
    assert (told["imported"], told["left_out"]) == (1, {"unreadable": 2})
    cache.chmod(0)
    done = as_a_user_with_limits(host, "import", cache)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("kind", ["folder", "tarball"])
def test_a_compiler_whose_modules_are_not_there_is_told_with_those_that_are(host, tmp_path, kind):
    make_entry(tmp_path / "cache" / FOLDER / MODULE)
    source = tmp_path / "cache" if kind == "folder" else pack(tmp_path / "cache", tmp_path / "c.tar")
    said = ns(host, "import", source, "--compiler", "9.9", code=1).stderr
    assert f"has no modules of compiler 9.9; it has those of {VERSION}" in said
