"""After a result was stored: is the store past one of its limits? Then a collection is started, and nobody waits for it.

The store is not walked for this: a collection leaves what it measured, and each result that is stored adds to that.
"""

import os
import time

from neuron_store.store.collection.growth import may_start, note_growth, read_growth
from neuron_store.store.direct import ENCODING_SUFFIX
from neuron_store.store.results import load_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.shim.main import Shim
    from neuron_store.shim.settings import Settings
    from neuron_store.store.collection.growth import Growth
    from neuron_store.store.layout import Layout

COLLECT_COMMAND = "collect"
_ENTRIES = 8192  # bytes of a record and its direct entry, about


def collect_if_due(shim: "Shim", key: str) -> None:
    """Note that the result `key` was stored, and start a collection if a limit is passed. Raises OSError, CorruptEntry."""
    settings, layout = shim.settings, shim.layout
    if settings.read_only:
        return
    if settings.max_size or settings.max_count:
        note_growth(layout, _size(layout, key))
    if _is_due(settings, layout, read_growth(layout)) and may_start(layout):
        from neuron_store.shim.background import start_in_background

        start_in_background([COLLECT_COMMAND], {**shim.environ, "NEURON_STORE_DIR": layout.root})


def _size(layout: "Layout", key: str) -> int:
    result = load_result(layout, key)
    if result is None:
        return 0
    kept = result.input.get("files") or []
    blobs = [(output.sha256, output.encoding) for output in result.outputs.values()]
    blobs += [(str(file["sha256"]), str(file["encoding"])) for file in kept]
    return _ENTRIES + sum(_on_disk(layout.blob_path(sha256, ENCODING_SUFFIX[encoding])) for sha256, encoding in blobs)


def _on_disk(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0


def _is_due(settings: "Settings", layout: "Layout", growth: "Growth") -> bool:
    if time.time() < growth.not_before:
        return False
    if growth.is_old and (settings.max_size or settings.max_count or settings.max_age or settings.keep_compilers):
        return True
    if settings.max_size and growth.bytes > settings.max_size:
        return True
    if settings.max_count and growth.results > settings.max_count:
        return True
    return _lacks_space(settings.min_free, layout)


def _lacks_space(min_free: str, layout: "Layout") -> bool:
    from neuron_store.shim.quantities import read_share

    found = os.statvfs(layout.bulk_folder())
    return found.f_bavail * found.f_frsize < read_share(min_free, found.f_blocks * found.f_frsize)
