"""Faults planted in a store, one of each kind that `verify` knows: each leaves everything else as it was."""

import os
import time

from stores import DAY, store_bytes

from neuron_store.store.results import load_result


def snapshot(store):
    """Everything in a store: path -> mode, modification time and content."""
    return {
        str(path.relative_to(store)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
        for path in store.rglob("*")
    }


def rewrite(path, data):
    """Put other bytes into a file, which keeps its mode."""
    mode = path.stat().st_mode & 0o777
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(mode)


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * at), len(data) - 1)] ^= 1
    rewrite(path, bytes(data))


def age(path, seconds=2 * DAY):
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


class Planter:
    """Plants faults in the store of a layout. Each method spoils one thing and returns the path that is at fault."""

    def __init__(self, store, layout):
        self.store = store
        self.layout = layout

    def record(self, key):
        return self.store / f"results/{key[:2]}/{key}"

    def blob(self, key, role="neff"):
        sha256 = load_result(self.layout, key).outputs[role].sha256
        return next((self.store / f"blobs/{sha256[:2]}").glob(f"{sha256}*"))

    def flipped_blob(self, key):
        path = self.blob(key)
        flip(path)
        return path

    def flipped_record(self, key):
        flip(self.record(key))
        return self.record(key)

    def truncated_blob(self, key):
        path = self.blob(key)
        rewrite(path, path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    def truncated_record(self, key):
        path = self.record(key)
        rewrite(path, path.read_bytes()[:-40])
        return path

    def missing_blob(self, key):
        path = self.blob(key)
        path.unlink()
        return path

    def orphan_blob(self, _key=None):
        output = store_bytes(self.layout, b"nobody's %d" % time.time_ns())
        return next((self.store / f"blobs/{output.sha256[:2]}").glob(f"{output.sha256}*"))

    def misnamed_blob(self, key):
        path = self.blob(key)
        other = "0" * 64 if not path.name.startswith("00") else "f" * 64
        target = self.store / f"blobs/{other[:2]}/{other}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        return path.rename(target)

    def misnamed_record(self, key):
        other = "0" * 31 + "1"
        target = self.store / f"results/{other[:2]}/{other}"
        target.parent.mkdir(exist_ok=True)
        return self.record(key).rename(target)

    def wrong_mode(self, key):
        path = self.blob(key)
        path.chmod(0o666)
        return path

    def stale_lock(self, _key=None):
        path = self.store / "locks" / ("5" * 32)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        age(path)
        return path

    def stale_temporary(self, _key=None):
        path = self.store / "tmp/123-abcdef"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half of something")
        age(path)
        return path

    def foreign_file(self, _key=None):
        path = self.store / "blobs/notes.txt"
        path.write_text("mine")
        return path

    def unreadable_blob(self, key):
        path = self.blob(key)
        path.chmod(0)
        return path

    def unreadable_record(self, key):
        self.record(key).chmod(0)
        return self.record(key)
