"""On a local miss, ask the remotes in order; what one of them has is checked, kept locally, and served from there."""

import time

from neuron_store.hashing.keys import prove_components
from neuron_store.shim.settings import state_folder
from neuron_store.shim.version import VERSION
from neuron_store.store.errors import ConfigurationError, CorruptRemote, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.answers import ERROR, HIT, MISS, SKIPPED, encode_answer
from neuron_store.store.remotes.fetch import Expected, fetch_blobs, fetch_record, require_expected
from neuron_store.store.remotes.http_reader import Connections, ReadLimits, Unreachable
from neuron_store.store.remotes.location import hub_offline, list_locations
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.results import save_result
from neuron_store.store.writing import Writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from neuron_store.hashing.keys import Component
    from neuron_store.shim.canonical import Canonical
    from neuron_store.shim.main import Shim
    from neuron_store.shim.settings import Settings
    from neuron_store.store.remotes.base import Remote
    from neuron_store.store.remotes.location import Location
    from neuron_store.store.remotes.records import Record
    from neuron_store.store.results import Result

    # Brings the result from a remote into a store, if it is there.
    Fetch = Callable[[Remote, Layout, RemoteOptions], bool]

_MARGIN = 5.0  # seconds, for what a look takes besides waiting


HIT_REMOTE = "hit_remote"


class RemoteLook:
    """One look for one key in all remotes.

    Attributes:
        corrupt: the identities of the remotes whose record or blob of this key is not what it must be.
        outcome: the counter of a hit from what was found.
    """

    def __init__(self, shim: "Shim", canonical: "Canonical") -> None:
        self.corrupt: set[str] = set()
        self.outcome = HIT_REMOTE
        self._shim = shim
        self._canonical = canonical
        self._key = canonical.key
        self._hub_fault: Unreachable | None = None
        self._answers: dict[str, tuple[str, float]] = {}  # URL -> answer, and seconds until it was clear
        self._clear_after = 0.0
        self._expected = Expected(canonical.fingerprint.digest, prove_components(canonical.components))

    def fetch(self, into: Layout, memory: Layout) -> bool:
        """Bring the result into the store `into`, if a remote has it; return whether it is there now.

        What none of them has of ours may stand in one as an entry of a stock cache: they are looked for last.

        `memory` keeps what is known of the remotes. Never raises: without the remotes, the compiler runs.
        """
        shim = self._shim
        try:
            locations, faults = list_locations(shim.settings.remotes, shim.environ)
        except Exception:  # noqa: BLE001 - without the remotes, the compiler runs
            shim.incidents.append("remote_fault")
            shim.log_fault("a fault of neuron-store, in the list of remotes")
            return False
        for fault in faults:
            shim.incidents.append("remote_misconfigured")
            shim.log(fault)
        options = remote_options(shim.settings)
        options.connections = connections = Connections()
        answered: list[Location] = []
        try:
            if any(self._try(location, into, memory, options, self._fetch, answered) for location in locations):
                return True
            return bool(answered) and self._fetch_stock(answered, into, memory, options)
        finally:
            connections.close()
            shim.asked += [encode_answer(answer, seconds, url) for url, (answer, seconds) in self._answers.items()]

    def _fetch_stock(self, locations: "list[Location]", into: Layout, memory: Layout, options: RemoteOptions) -> bool:
        from neuron_store.shim.stock_hits import StockLook

        try:
            look = StockLook(self._shim, self._canonical)
            if look.worthwhile() and any(
                self._try(location, into, memory, options, look.fetch, []) for location in locations
            ):
                self.outcome = look.outcome
                return True
        except Exception:  # noqa: BLE001 - without the remotes, the compiler runs
            self._shim.incidents.append("remote_fault")
            self._shim.log_fault("a fault of neuron-store, in the look for stock entries")
        return False

    def _try(
        self,
        location: "Location",
        into: Layout,
        memory: Layout,
        options: RemoteOptions,
        fetch: "Fetch",
        answered: "list[Location]",
    ) -> bool:
        shim = self._shim
        try:
            if location.scheme == "hf" and hub_offline(shim.environ):
                return False
            return self._ask(location, into, memory, options, fetch, answered)
        except Exception:  # noqa: BLE001 - without the remotes, the compiler runs
            shim.incidents.append("remote_fault")
            shim.log_fault(f"a fault of neuron-store, with the remote {location.url}")
            return False

    def _ask(
        self,
        location: "Location",
        into: Layout,
        memory: Layout,
        options: RemoteOptions,
        fetch: "Fetch",
        answered: "list[Location]",
    ) -> bool:
        shim = self._shim
        remote, state = open_remote(location, memory, shim.environ, options)
        patience = options.limits.connect + options.limits.first_byte + _MARGIN
        may_try = state.may_try(patience, remote.credential)
        if may_try and self._hub_fault is not None and location.scheme == "hf":
            state.note_failure(self._hub_fault)
            may_try = False
        if not may_try:
            shim.incidents.append("remote_skipped")
            self._answers.setdefault(location.url, (SKIPPED, 0.0))
            return False
        begun, self._clear_after = time.monotonic(), 0.0
        answer = ERROR
        try:
            found = fetch(remote, into, options)
            state.note_success()
            answered.append(location)
            answer = HIT if found else MISS
        except CorruptRemote as error:
            state.note_success()
            answered.append(location)
            self.corrupt.add(remote.identity)
            self._note("remote_corrupt", location, error)
            return False
        except (RemoteRefused, ConfigurationError) as error:
            state.note_failure(error, credential=remote.credential)
            self._note("remote_refused", location, error)
            return False
        except RemoteUnavailable as error:
            state.note_failure(error, retry_after=error.retry_after)
            if isinstance(error, Unreachable):
                self._hub_fault = error  # which every repo of the Hub shares
            self._note("remote_failed", location, error)
            return False
        except OSError as error:
            shim.count_store_fault(error)
            return False
        finally:
            remote.close()
            self._note_answer(location.url, answer, self._clear_after or time.monotonic() - begun)
        return found

    def _note_answer(self, url: str, answer: str, seconds: float) -> None:
        """Note what a remote answered. The look for a stock entry only adds to what was answered before."""
        earlier = self._answers.get(url)
        if earlier is None:
            self._answers[url] = (answer, seconds)
        elif answer != MISS:
            self._answers[url] = (answer, earlier[1])

    def _fetch(self, remote: "Remote", into: Layout, options: RemoteOptions) -> bool:
        begun = time.monotonic()
        record = fetch_record(remote, self._shim.identity.version, self._key, options.largest)
        self._clear_after = time.monotonic() - begun
        if record is None:
            return False
        require_expected(record, self._expected)
        with Writing(into):
            self._shim.fetched += fetch_blobs(remote, into, record)
            save_result(into, self._as_kept(record, remote.url))
        return True

    def _as_kept(self, record: "Record", url: str) -> "Result":
        """Return what the local store records of it: what the result was made of is said as it is here."""
        result = record.as_result(url)
        result.components = [describe(component) for component in self._canonical.components]
        if self._shim.model is not None:
            fingerprint = self._canonical.fingerprint
            result.input |= {"name": self._shim.model.name, "size": self._shim.model.size, "mode": fingerprint.mode}
        return result

    def _note(self, incident: str, location: "Location", error: Exception) -> None:
        self._shim.incidents.append(incident)
        self._shim.log(f"{incident}: {location.url}: {error}")


def describe(component: "Component") -> "dict[str, Any]":
    """Return a component of the key as a result records it."""
    fields = [field.decode("utf-8", "backslashreplace") for field in component.fields]
    return {"name": component.name, "digest": component.digest(), "fields": fields}


def remote_options(settings: "Settings", *, may_fork: bool = True) -> RemoteOptions:
    """Return what the settings say of remotes."""
    return RemoteOptions(
        limits=ReadLimits(
            settings.remote_connect_timeout, settings.remote_first_byte_timeout, settings.remote_min_rate
        ),
        largest=settings.remote_max_bytes,
        upload_timeout=settings.upload_timeout,
        xet=settings.xet,
        agent=f"neuron-store/{VERSION}",
        may_fork=may_fork,
    )


def memory_aside(environ: "Mapping[str, str]") -> Layout:
    """Return where remotes are remembered if the store cannot be written: the user's state folder."""
    return Layout(state_folder(environ))
