"""What `verify` makes of files that its user cannot read: found as such, made readable where they are the user's own."""

import json
import os
from pathlib import Path

import pytest
from planted_faults import Planter
from stores import add_result

from neuron_store.store.checking.check import check_store
from neuron_store.store.checking.quarantine import Quarantine
from neuron_store.store.checking.refetch import Refetcher
from neuron_store.store.checking.repairs import repair_store

NOBODY = 65534


def as_a_user_with_limits(question):
    """Return what `question` returns, asked by a process that is not root's: to root, everything is readable."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if not os.geteuid():
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writer, json.dumps(question()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        answer = file.read()
    os.waitpid(child, 0)
    assert answer, "the question failed"
    return json.loads(answer)


def give_away(store):
    """Make everything in a store the other user's, if there is another."""
    if not os.geteuid():
        for path in [store, *store.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def store(open_host):
    made = open_host
    made.keys = [add_result(made.layout, number) for number in range(3)]
    made.planter = Planter(made.store, made.layout)
    assert check_store(made.layout, 1).findings == []  # which imports all that the other user might not be able to
    return made


def found(host):
    checked = check_store(host.layout, 2)
    return [(finding.kind, finding.path, finding.keys) for finding in checked.findings]


def repaired(host):
    refetcher = Refetcher(host.layout, [], lambda record, url: None, 1 << 30)
    checked, findings = repair_store(host.layout, 2, refetcher, Quarantine(host.layout))
    return [len(checked.findings), checked.results, [(f.kind, f.outcome, f.done) for f in findings if not f.follows]]


@pytest.mark.parametrize("planted", ["unreadable_blob", "unreadable_record"])
def test_an_unreadable_file_is_found_and_made_readable(store, planted):
    path = getattr(store.planter, planted)(store.keys[1])
    give_away(store.store)
    below = str(path.relative_to(store.store))
    assert as_a_user_with_limits(lambda: found(store)) == [["unreadable", below, [store.keys[1]]]]
    left, results, done = as_a_user_with_limits(lambda: repaired(store))
    assert (left, results) == (0, 3)
    assert [(kind, outcome) for kind, outcome, _ in done] == [("unreadable", "repaired")]
    assert "mode 0444" in done[0][2] or "mode 0644" in done[0][2]
    assert as_a_user_with_limits(lambda: found(store)) == []


def test_a_folder_that_cannot_be_listed_is_found_and_opened(store):
    folder = store.planter.record(store.keys[0]).parent
    folder.chmod(0)
    give_away(store.store)
    kinds = as_a_user_with_limits(lambda: found(store))
    assert ["unreadable", str(folder.relative_to(store.store)), []] in kinds
    left, results, _ = as_a_user_with_limits(lambda: repaired(store))
    assert (left, results) == (0, 3)
    assert as_a_user_with_limits(lambda: found(store)) == []


def test_another_users_unreadable_blob_is_moved_away_where_the_folder_allows_it(store):
    if os.geteuid():
        pytest.skip("only root can give files to another user")
    give_away(store.store)
    path = store.planter.unreadable_blob(store.keys[1])
    os.chown(path, 0, 0)
    left, results, done = as_a_user_with_limits(lambda: repaired(store))
    assert (left, results) == (0, 2)
    assert done[0][:2] == ["unreadable", "repaired"]
    assert not path.exists()


def test_what_cannot_be_mended_is_left_and_said(store):
    if os.geteuid():
        pytest.skip("only root can give files to another user")
    give_away(store.store)
    path = store.planter.wrong_mode(store.keys[1])
    os.chown(path, 0, 0)
    left, results, done = as_a_user_with_limits(lambda: repaired(store))
    assert (left, results) == (1, 3)
    assert done == [["wrong_mode", "left", "Operation not permitted; change its owner or mode"]]
    assert Path(path).stat().st_mode & 0o777 == 0o666
