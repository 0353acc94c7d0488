"""The disk of the store: whether there is room, and whether the limits fit it."""

import os
from collections.abc import Iterator
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.finding import Area, Finding, ok, problem, warning
from neuron_store.cli.diagnosis.storage import existing_folder
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.shim.quantities import read_share
from neuron_store.store.collection.limits import free_space
from neuron_store.store.layout import Layout

_LEAST = 1 << 30  # bytes; large NEFFs have most of that
_LEAST_FILES = 1000

AREA = Area(
    "disk",
    {
        "room": ok("There is room on the store's disk."),
        "full": problem(
            "There is hardly room on the store's disk: results are not stored, and compiles themselves may fail.",
            "make room: `neuron-store gc --min-free 10%`, or move the store (NEURON_STORE_DIR)",
        ),
        "low": warning(
            "Less of the store's disk is free than the setting `min_free` asks for: results unused for a day are removed "
            "until there is.",
            "make room on the disk, or set a smaller min_free",
        ),
        "no-files-left": problem(
            "The store's disk has room for bytes, but hardly for one more file (its inodes are used up).",
            "remove files from it, or move the store (NEURON_STORE_DIR)",
        ),
        "limit-beyond-disk": warning(
            "The setting `max_size` is more than the disk has: it never takes effect.",
            "set a max_size that the disk can hold, or rely on min_free",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at the free space of the store's disk."""
    folder = existing_folder(here.layout.bulk_folder())
    free, whole = free_space(Layout(folder))
    files = os.statvfs(folder)
    facts: dict[str, Any] = {"free": free, "whole": whole, "path": folder}
    said = f"{presentation.size(free)} of {presentation.size(whole)} are free where {folder} lies"
    wanted = read_share(here.settings.min_free, whole)
    if free < _LEAST:
        yield AREA.find("full", said, **facts)
    elif free < wanted:
        yield AREA.find("low", f"{said}, and min_free is {here.settings.min_free}", **facts)
    else:
        yield AREA.find("room", said, **facts)
    # Some file systems count no files at all.
    if files.f_files and files.f_favail < _LEAST_FILES:
        yield AREA.find("no-files-left", f"only {files.f_favail} more files can be made where {folder} lies")
    if here.settings.max_size > whole:
        limit = presentation.size(here.settings.max_size)
        yield AREA.find("limit-beyond-disk", f"max_size is {limit}, and the disk has {presentation.size(whole)}")
