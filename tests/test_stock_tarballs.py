"""Tarballs of stock caches: what was cut, damaged or added to later is never taken for something else."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile

import pytest
import zstandard
from cli_remotes import answer, ns
from stock_setup import FLAGS, FOLDER, graph, stock, write_entry

from neuron_store.store.results import all_keys

NOT_WHOLE = "no tarball that can be read to its end"


def make_entry(cache, number, **files):
    return write_entry(cache / f"{FOLDER}/MODULE_{number}+d7517139", graph(number), FLAGS, **files)


def tar(*words):
    subprocess.run(["tar", *map(str, words)], check=True)


def served(host, number):
    """What the store serves for a graph."""
    return stock(host, host.base / "new", host.model(f"served{number}.pb", graph(number)))[1]


def refused(host, packed):
    """Whether a tarball is refused, and nothing of it taken."""
    said = ns(host, "import", packed, code=1).stderr
    assert list(all_keys(host.layout)) == []
    assert host.leftovers() == []
    return NOT_WHOLE in said


@pytest.mark.parametrize("added", ["-uf", "-rf"])
def test_the_last_member_of_a_name_counts(host, tmp_path, added):
    entry = make_entry(tmp_path / "cache", 1, neff=b"HALF", done=False)
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    (entry / "model.neff").write_bytes(b"HALF and the other half")
    (entry / "model.done").touch()
    later = (entry / "model.neff").stat().st_mtime + 5
    os.utime(entry / "model.neff", (later, later))
    tar(added, tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    assert answer(host, "import", tmp_path / "c.tar")["imported"] == 1
    assert served(host, 1) == b"HALF and the other half"


@pytest.mark.parametrize(
    ("part", "state"), [("wrapped_neff.hlo", "unfinished"), ("model.neff", "unfinished"), ("model.done", "unfinished")]
)
def test_an_entry_with_a_part_that_is_a_link_is_not_finished(host, tmp_path, part, state):
    entry, _ = (make_entry(tmp_path / "cache", number, neff=b"NEFF") for number in (1, 2))
    (entry / part).unlink(missing_ok=True)
    (entry / part).symlink_to("/etc/passwd")
    (entry / "readme").symlink_to("/etc/passwd")
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    told = answer(host, "import", tmp_path / "c.tar")
    assert (told["imported"], told["left_out"]) == (1, {state: 1})


def test_a_file_that_something_else_has_replaced_is_not_there(host, tmp_path):
    entry = make_entry(tmp_path / "cache", 1, neff=b"NEFF")
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    (entry / "model.neff").unlink()
    (entry / "model.neff").symlink_to("/etc/passwd")
    tar("-rf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    assert answer(host, "import", tmp_path / "c.tar")["left_out"] == {"unfinished": 1}


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor(write_checksum=True).compress],
    ids=["gz", "bz2", "xz", "zst"],
)
def test_a_bit_that_flipped_in_a_compressed_tarball_is_found(host, tmp_path, compress):
    make_entry(tmp_path / "cache", 1, neff=os.urandom(200_000))
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    whole = compress((tmp_path / "c.tar").read_bytes())
    packed = tmp_path / "packed"
    packed.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 16]) + whole[len(whole) // 2 + 1 :])
    assert refused(host, packed)
    packed.write_bytes(whole[:-3])
    assert refused(host, packed)
    packed.write_bytes(whole)
    assert answer(host, "import", packed)["imported"] == 1


def test_two_compressed_files_one_after_the_other_are_one(host, tmp_path):
    make_entry(tmp_path / "cache", 1, neff=b"NEFF")
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    whole = (tmp_path / "c.tar").read_bytes()
    for number, compress in enumerate((gzip.compress, zstandard.compress)):
        (tmp_path / "packed").write_bytes(compress(whole[:3000]) + compress(whole[3000:]))
        told = answer(host, "import", tmp_path / "packed")
        assert (told["imported"], told["present"]) == (1 - number, number)


def test_a_tarball_that_ends_at_or_in_a_header_is_not_whole(host, tmp_path):
    entry = make_entry(tmp_path / "cache", 1, neff=b"NEFF")
    (entry / "wrapped_neff.hlo").write_bytes(b"wrapped")
    names = ["model.hlo_module.pb", "compile_flags.json", "model.neff", "model.done", "wrapped_neff.hlo"]
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", *(f"{FOLDER}/{entry.name}/{name}" for name in names))
    whole = (tmp_path / "c.tar").read_bytes()
    with tarfile.open(tmp_path / "c.tar") as archive:
        last = archive.getmembers()[-1]
    cut = tmp_path / "cut.tar"
    for size in (last.offset, last.offset + 200, last.offset + 512 + 3, last.offset + 1024):
        cut.write_bytes(whole[:size])
        assert refused(host, cut)
    flipped = bytearray(whole)
    flipped[last.offset + 20] ^= 1
    cut.write_bytes(flipped)
    assert refused(host, cut)
    cut.write_bytes(whole[: last.offset + 1024] + bytes(512))  # one block of zeros says that it is the end
    assert answer(host, "import", cut)["imported"] == 1


def test_hard_links_within_a_tarball_are_followed(host, tmp_path):
    first = make_entry(tmp_path / "cache", 1, neff=b"SAME")
    make_entry(tmp_path / "cache", 2)
    os.link(first / "model.neff", tmp_path / f"cache/{FOLDER}/MODULE_2+d7517139/model.neff")
    (tmp_path / f"cache/{FOLDER}/MODULE_2+d7517139/model.done").touch()
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    assert answer(host, "import", tmp_path / "c.tar")["imported"] == 2
    assert (served(host, 1), served(host, 2)) == (b"SAME", b"SAME")


def test_a_hard_link_leads_to_nothing_outside_of_its_tarball(host, tmp_path):
    entry = make_entry(tmp_path / "cache", 1)
    (entry / "model.done").touch()
    tar("-cf", tmp_path / "c.tar", "-C", tmp_path / "cache", ".")
    secret = tmp_path / "secret"
    secret.write_bytes(b"SECRET")
    with tarfile.open(tmp_path / "c.tar", "a") as archive:
        link = tarfile.TarInfo(f"./{FOLDER}/{entry.name}/model.neff")
        link.type, link.linkname = tarfile.LNKTYPE, str(secret)
        archive.addfile(link)
    assert answer(host, "import", tmp_path / "c.tar")["left_out"] == {"unfinished": 1}


def test_numbers_in_a_tarball_that_are_none_are_told(host, tmp_path):
    headers = {"GNU.sparse.map": "x,y", "GNU.sparse.size": "z"}
    member = tarfile.TarInfo(f"{FOLDER}/MODULE_1+d7517139/model.neff")
    member.size, member.pax_headers = 4, headers
    with tarfile.open(tmp_path / "c.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"evil"))
    assert refused(host, tmp_path / "c.tar")
