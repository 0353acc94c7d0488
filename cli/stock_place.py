"""Where the stock cache's folder is: what libneuronxla would take it for, if nobody names another."""

import os
import shlex
from collections.abc import Mapping

from neuron_store.store.errors import ConfigurationError, NotFound

DEFAULT_FOLDER = "/var/tmp/neuron-compile-cache"
FLAGS_VARIABLE = "NEURON_CC_FLAGS"
URL_VARIABLE = "NEURON_COMPILE_CACHE_URL"
_CACHE_DIR = "--cache_dir"


def stock_folder(named: str) -> str:
    """Return the path of the stock cache's folder: `named`, or else the environment's.

    Raises NotFound, ConfigurationError; OSError if it cannot be read.
    """
    place, source = (named, "") if named else _of_environment(os.environ)
    folder = _without_scheme(place)
    said = f"{source} names {place}, which" if source else place
    if "://" in folder:
        how = f"aws s3 sync {place} FOLDER" if folder.startswith("s3://") else "to a folder of this host"
        raise ConfigurationError(f"{said} is not looked into; copy it first: {how}")
    if not os.path.isdir(folder):
        named_by = f", which {source} names" if source else ""
        raise NotFound(f"there is no folder {folder}{named_by}; name the stock cache's")
    os.listdir(folder)  # which tells if we may not
    return os.path.abspath(folder)


def _of_environment(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the place, and the variable that names it ("" for none). The compiler's options win, as in libneuronxla."""
    options = cache_dirs(environ.get(FLAGS_VARIABLE, ""))
    if options and options[-1]:
        return options[-1], FLAGS_VARIABLE
    if url := environ.get(URL_VARIABLE, ""):
        return url, URL_VARIABLE
    return DEFAULT_FOLDER, ""


def cache_dirs(flags: str) -> list[str]:
    """Return the values of `--cache_dir` in compiler options, as NEURON_CC_FLAGS has them; the last one counts."""
    try:
        words = shlex.split(flags)
    except ValueError:  # a quote that is not closed
        words = flags.split()
    found = []
    for number, word in enumerate(words):
        if word == _CACHE_DIR:
            found.append("".join(words[number + 1 : number + 2]))
        elif word.startswith(_CACHE_DIR + "="):
            found.append(word.partition("=")[2])
    return found


def _without_scheme(place: str) -> str:
    """Return the path in a `file:` URL of this host; anything else as it is."""
    for prefix in ("file://localhost/", "file:///"):
        if place.startswith(prefix):
            return "/" + place.removeprefix(prefix)
    return place
