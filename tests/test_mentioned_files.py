"""A model that mentions a file in a way that is not understood is not cached: the content would not be in the key."""

from hlo_edits import field
from test_cli_verify import module_calling

COMPILE = ("compile", "--target=trn1", "--output=o.neff")


def attributed(value):
    attributes = field(68, field(1, field(1, b"const_path") + field(2, value)))
    instruction = field(1, b"p") + field(2, b"parameter") + attributes + field(35, 1)
    computation = field(1, b"main") + field(2, instruction) + field(5, 1) + field(6, 1)
    return field(1, b"m") + field(3, computation) + field(6, 1)


def test_an_attribute_that_mentions_a_file(host):
    constant = host.base / "const.npy"
    model = host.model("a.pb", attributed(str(constant).encode()))
    for _ in range(2):  # there is no such file: the text alone counts
        host.cc(*COMPILE, model)
    constant.write_bytes(b"1")
    model = host.model("a.pb", attributed(b"path=" + str(constant).encode() + b";"))
    host.cc(*COMPILE, model)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1, "pass_side_file": 1}


def test_bytes_that_are_no_module_and_mention_a_data_file(host):
    constant = host.base / "const.npy"
    constant.write_bytes(b"1")
    host.cc(*COMPILE, host.model("a.mlir", b"ML\xefR\x00\x01" + str(constant).encode() + b"\x00"))
    assert host.counters() == {"pass_side_file": 1}


def test_bytes_that_are_no_module_and_mention_a_source_file(host):
    source = host.base / "model.py"
    source.write_bytes(b"1")
    for _ in range(2):
        host.cc(*COMPILE, host.model("a.mlir", b"ML\xefR\x00\x01" + str(source).encode() + b"\x00"))
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_model_directory_is_not_the_file_in_it(host):
    directory = host.work / "model"
    directory.mkdir()
    (directory / "graph.hlo").write_bytes(attributed(b"x"))
    host.cc(*COMPILE, directory)
    host.cc(*COMPILE, directory / "graph.hlo")
    host.cc(*COMPILE, directory)
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}


def test_a_kernel_named_in_plain_json_is_understood(host):
    kernel = host.base / "k/add.klir"
    kernel.parent.mkdir()
    kernel.write_bytes(b"kernel")
    host.cc(*COMPILE, host.model("a.pb", module_calling(kernel)))
    assert host.counters() == {"miss_stored": 1}
