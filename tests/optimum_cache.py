"""A small stock cache as optimum-neuron's users have it, to be uploaded by its own code."""

from stock_setup import FLAGS, graph, module_name, write_entry

COMPILER = "2.21.33363.0+82129205"
FOLDER = f"neuronxcc-{COMPILER}"
NEFFS = {number: b"NEFF of graph %d\0" % number for number in (1, 2)}


def write_cache(cache):
    """Write two finished modules, one that failed, one that is locked, a traced model and a registry entry with its alias."""
    for number, neff in NEFFS.items():
        write_entry(cache / FOLDER / module_name(graph(number), list(FLAGS)), graph(number), FLAGS, neff=neff)
    failed = write_entry(cache / FOLDER / module_name(graph(3), list(FLAGS)), graph(3), FLAGS)
    (failed / "model.log").write_text("the compiler failed\n")
    locked = write_entry(cache / FOLDER / module_name(graph(4), list(FLAGS)), graph(4), FLAGS)
    (locked / "model.hlo_module.pb.lock").write_text("")
    traced = cache / FOLDER / "MODULE_0123456789abcdef0123"
    traced.mkdir()
    (traced / "model.neuron").write_bytes(b"a traced model\0")
    (traced / "config.json").write_text("{}")
    registry = cache / FOLDER / "0_REGISTRY/0.4.5"
    (registry / ("0" * 64)).mkdir(parents=True)
    (registry / ("0" * 64) / "abc.json").write_text('{"model_type": "llama"}')
    (registry / "llama/acme/tiny").mkdir(parents=True)
    (registry / "llama/acme/tiny/abc.json").symlink_to(registry / ("0" * 64) / "abc.json")
    return cache
