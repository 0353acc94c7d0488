"""Finding results in remotes: by their keys, by the first digits of them, by compiler version, or all."""

import os
from collections.abc import Callable, Iterator

from neuron_store.cli.fetching import Wanted
from neuron_store.cli.remotes import Opened, in_threads, require_online
from neuron_store.shim.settings import OFFICIAL_REMOTE
from neuron_store.store.direct import ENCODING_SUFFIX
from neuron_store.store.errors import AmbiguousKey, CorruptEntry, NotFound, RemoteError, RemoteRefused
from neuron_store.store.layout import KEY_LENGTH, Layout, is_hex
from neuron_store.store.remotes.base import RESULTS, Remote, key_in, record_path, version_folder, versions_of
from neuron_store.store.results import load_result

_OFFICIAL = OFFICIAL_REMOTE.partition("|")[0]

# From a remote and its compiler versions to version and key of each result.
_Question = Callable[[Opened, list[str]], list[tuple[str, str]]]


class Search:
    """Finds in which remotes, and under which compiler versions, results are.

    Attributes:
        remotes: that are searched.
        wanted: key -> what is to be fetched.
        present: how many of the results that were looked for are here already.
        missing: what was looked for and no remote has.
        searched: the URLs of those that answered.
        faults: of remotes that could not be searched.
        remarks: of the official repo, where a Hub of one's own does not have it: nobody asked for that one.
    """

    def __init__(self, layout: Layout, remotes: list[Opened]) -> None:
        self.remotes = remotes
        self.wanted: dict[str, Wanted] = {}
        self.present = 0
        self.missing: list[str] = []
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self.searched: list[str] = []
        self._layout = layout

    def look_for(self, words: list[str]) -> None:
        """Find keys, or those that begin so. Raises NotFound or AmbiguousKey for a word that names no one key."""
        words = list(dict.fromkeys(word.lower() for word in words))
        for word in words:
            if not 2 <= len(word) <= KEY_LENGTH or not is_hex(word, len(word)):
                raise NotFound(
                    f"{word!r} is not a key: a key is {KEY_LENGTH} of the digits 0-9a-f; its first two will do"
                )
        whole = [word for word in words if len(word) == KEY_LENGTH and is_whole(self._layout, word)]
        self.present += len(whole)
        asked = [word for word in words if word not in whole]
        if asked:
            self._ask_all(lambda opened, versions: _named(opened.remote, versions, asked))
        for word in asked:
            fitting = [key for key in self.wanted if key.startswith(word)]
            if len(fitting) > 1:
                shown = ", ".join(fitting[:4]) + (", …" if len(fitting) > 4 else "")
                raise AmbiguousKey(f"{len(fitting)} keys start with {word} ({shown}); give more digits")
            if not fitting:
                self.missing.append(word)
        self._leave_out_whole()

    def list_all(self, version: str) -> None:
        """Find all results of compilers whose version starts with `version`. Raises NotFound if there is none."""
        fitting: set[str] = set()

        def ask(opened: Opened, versions: list[str]) -> list[tuple[str, str]]:
            here = [name for name in versions if name.startswith(version)]
            fitting.update(here)
            found = in_threads(lambda name: list(listed_keys(opened.remote, name)), here)
            return [(name, key) for name, keys in zip(here, found, strict=True) for key in keys]

        self._ask_all(ask)
        if version and not fitting and not self.faults:
            urls = ", ".join([opened.remote.url for opened in self.remotes])
            raise NotFound(f"{urls} has nothing of a compiler whose version starts with {version}; see `list <remote>`")
        self._leave_out_whole()

    def _ask_all(self, ask: _Question) -> None:
        for place, opened in enumerate(self.remotes):
            try:
                require_online(opened.location)
                found = ask(opened, versions_of(opened.remote.folders()))
            except RemoteError as error:
                spare = isinstance(error, RemoteRefused) and opened.remote.url == _OFFICIAL and len(self.remotes) > 1
                (self.remarks if spare else self.faults).append(str(error))
                continue
            opened.state.note_success()
            self.searched.append(opened.remote.url)
            for version, key in found:
                self.wanted.setdefault(key, Wanted(key, [])).sources.append((place, version))

    def _leave_out_whole(self) -> None:
        for key in [key for key in self.wanted if is_whole(self._layout, key)]:
            del self.wanted[key]
            self.present += 1


def _named(remote: Remote, versions: list[str], words: list[str]) -> list[tuple[str, str]]:
    """Return version and key of what `words` name: one request for all whole keys, a listing for each prefix."""
    paths = {
        record_path(version_folder(version), word): (version, word)
        for word in words
        if len(word) == KEY_LENGTH
        for version in versions
    }
    found = [paths[path] for path in remote.look_up(list(paths))] if paths else []
    prefixes = [(version, word) for word in words if len(word) < KEY_LENGTH for version in versions]
    listed = in_threads(lambda pair: list(listed_keys(remote, *pair)), prefixes)
    found += [(version, key) for (version, _), keys in zip(prefixes, listed, strict=True) for key in keys]
    return list(dict.fromkeys(found))


def listed_keys(remote: Remote, version: str, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a compiler version's results that start with `prefix`."""
    folder = version_folder(version)
    below = f"{folder}/{RESULTS}" + (f"/{prefix[:2]}" if len(prefix) > 1 else "")
    for file in remote.walk(below):
        key = key_in(file.path)
        if key and key.startswith(prefix):
            yield key


def is_whole(layout: Layout, key: str) -> bool:
    """Tell whether the local store has the result with all its outputs."""
    try:
        result = load_result(layout, key)
    except (CorruptEntry, OSError):
        return False
    return result is not None and all(
        os.path.isfile(layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding]))
        for output in result.outputs.values()
    )
