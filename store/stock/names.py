"""What the stock caches call things: libneuronxla's folder, and the repos of that layout that optimum-neuron keeps.

Grammar:

    <root>/neuronxcc-<version>/MODULE_<hlo>+<flags>/      an entry, named after its module
        model.hlo_module.pb, in older ones model.hlo.pb   the graph
        compile_flags.json                                the options it is compiled with: JSON, a list of words
        model.neff                                        what was made of it
        wrapped_neff.hlo                                  the same, where the compiler makes one
        model.done                                        empty; written last: the entry is whole
        model.log                                         what the compiler said when it failed
        model.hlo_module.pb.lock                          someone compiles it, or was killed when they did
    <root>/neuronxcc-<version>/MODULE_<20 hex digits>/    a traced model: a whole export, and no module
    <root>/USER_neuroncc-<version>/MODULE_<number>/…      what there was before; it does not tell the options

    <hlo>   a decimal number (training), or 20 hex digits (inference): an unpublished hash, not ours to compute
    <flags> 8 hex digits over the options: see flags.py

A caller names its graph `model.<module>.hlo_module.pb` or `model.<module>.hlo.pb`, or compiles it where it lies.
Sources: logs and folders that are public, of neuronx-cc 2.0 to 2.26.
"""

import os
import re

from neuron_store.store.remotes.base import FOLDER_PREFIX

GRAPHS = ("model.hlo_module.pb", "model.hlo.pb")
FLAGS = "compile_flags.json"
NEFF = "model.neff"
WRAPPED_NEFF = "wrapped_neff.hlo"
DONE = "model.done"
FAILURE_LOG = "model.log"
LOCK_SUFFIX = ".lock"
OLD_FOLDER_PREFIX = "USER_neuroncc-"

# Why a folder that is called like an entry is none.
ODD_NAME = "odd_name"  # it is named after no graph and options
ODD_VERSION = "odd_version"  # its version's folder is named after no version
NO_VERSION_FOLDER = "no_version_folder"  # it lies in no version's folder, so that its compiler is not known

MODULE_PREFIX = "MODULE_"
_MODULE = r"MODULE_[0-9A-Za-z]{1,64}\+[0-9a-f]{8}"
_IS_MODULE = re.compile(_MODULE)
_IS_TRACED = re.compile(r"MODULE_[0-9a-f]{20}")
_IN_NAME = re.compile(rf"(?:^|[.])({_MODULE})\.(?:hlo_module\.pb|hlo\.pb|hlo)")
_VERSION_FOLDER = re.compile(re.escape(FOLDER_PREFIX) + r"([0-9][0-9A-Za-z.+_-]{0,99})")


def is_module(name: str) -> bool:
    """Tell whether `name` is a module's: `MODULE_<hlo>+<flags>`."""
    return _IS_MODULE.fullmatch(name) is not None


def is_traced(name: str) -> bool:
    """Tell whether `name` is that of a traced model's folder."""
    return _IS_TRACED.fullmatch(name) is not None


def what_is_odd(above: str, name: str) -> str:
    """Return why the folder `name` (`MODULE_…`) in the folder `above` is no entry, "" if it is one."""
    if above.startswith(OLD_FOLDER_PREFIX):
        return ""
    if not version_of(above):
        return ODD_VERSION if above.startswith(FOLDER_PREFIX) else NO_VERSION_FOLDER
    return "" if is_module(name) or is_traced(name) else ODD_NAME


def flags_hash_of(module: str) -> str:
    """Return the 8 hex digits of a module's name that stand for its options."""
    return module.rpartition("+")[2]


def version_of(folder: str) -> str:
    """Return the compiler version that a folder `neuronxcc-<version>` is named after, "" if it is no such folder."""
    match = _VERSION_FOLDER.fullmatch(folder)
    return match[1] if match else ""


def module_in(path: str) -> str:
    """Return the module that the path of a graph carries, in its own name or its folder's; "" if it carries none."""
    folder, name = os.path.split(path)
    match = _IN_NAME.search(name)
    if match:
        return match[1]
    above = os.path.basename(folder)
    return above if name in GRAPHS and is_module(above) else ""


def graph_name(module: str) -> str:
    """Return what a caller names the graph of `module`."""
    return f"model.{module}.hlo_module.pb"
