"""The remotes: whether each can be reached, read and written, and how far away it is. All are asked at once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis import clock
from neuron_store.cli.diagnosis.bounded import run_bounded
from neuron_store.cli.diagnosis.finding import Area, Finding, Level, note, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.cli.remotes import Opened, described_source, open_location, why_no_remote
from neuron_store.store.remotes.http_connect import shown
from neuron_store.store.remotes.hub_client import prepare
from neuron_store.store.remotes.location import Location, hub_endpoint, hub_offline, list_locations

_SLOW = 1.0  # seconds
_SHARE = 0.8  # of the time for all; what is left is for saying what came of it
_NETWORK = "check the network, proxies (HTTPS_PROXY) and HF_ENDPOINT; compiles go on meanwhile, without it"

AREA = Area(
    "remotes",
    {
        "usable": ok("The remote can be reached, and we have the rights on it that the settings want."),
        "answers": ok("The Hub answers, and how fast."),
        "slow": warning(
            "The Hub answers so slowly that compiles notice it: each local miss asks it.",
            "check the network and proxies; a remote nearer by, or a shared folder, can stand first in `remotes`",
        ),
        "none": note("No remote is configured: results stay on this host."),
        "not-asked": note("The remotes were not asked, because `--offline` was given, or HF_HUB_OFFLINE is set."),
        "misconfigured": problem(
            "A remote is written wrongly, and left out.", "write hf://[datasets/]org/name[@revision] or file:///folder"
        ),
        "unreachable": problem("A remote that you configured cannot be reached.", _NETWORK),
        "default-unreachable": warning(
            "The public remote, which is asked where nothing else is configured, cannot be reached.",
            "if this host has no network, say so: `neuron-store config set remotes none`; else check network and proxies",
        ),
        "unreadable": problem(
            "The remote does not let us read.",
            "check its name; log in as someone who may read it (`hf auth login`, HF_TOKEN)",
        ),
        "unwritable": problem(
            "The remote does not let us write, so results pile up in the queue.",
            "use a token that may write, or write |read-only after it in remotes",
        ),
        "paused": note(
            "Compiles do not ask the remote for a while, because it failed a short while ago.",
            "nothing need be done: it is tried again by itself",
        ),
        "no-answer": problem("A remote was reached, perhaps, but did not answer in time.", _NETWORK),
    },
)


@dataclass
class _RoundTrip:
    seconds: float
    date: str


def examine(here: Surroundings) -> Iterator[Finding]:
    """Ask every remote, and the Hub itself, at once."""
    locations, faults = list_locations(here.settings.remotes, here.environ)
    for fault in faults:
        yield AREA.find("misconfigured", fault)
    if not locations and not faults:
        yield AREA.find("none", why_no_remote(here.settings))
    opened = [
        open_location(location, here.layout, here.settings, patience=_request_patience(here)) for location in locations
    ]
    for one in opened:
        yield from _paused(one)
    asked = []
    for one in opened:
        reason = _why_not(one.location, here)
        if reason:
            yield AREA.find("not-asked", f"{one.location.url} was not asked: {reason}", url=one.location.url)
        else:
            asked.append(one)
    yield from _ask_all(asked, here)


def _why_not(location: Location, here: Surroundings) -> str:
    if here.offline:
        return "--offline was given"
    return "HF_HUB_OFFLINE is set" if location.scheme == "hf" and hub_offline(here.environ) else ""


def _paused(one: Opened) -> Iterator[Finding]:
    until = one.state.read().get("skip_until")
    if isinstance(until, int | float) and until > time.time():
        left = presentation.duration(round(until - time.time()))
        url = one.location.url
        yield AREA.find("paused", f"compiles leave {url} alone for another {left}", url=url, until=until)


def _ask_all(asked: list[Opened], here: Surroundings) -> Iterator[Finding]:
    patience = here.patience * _SHARE
    work = [partial(_ask, one, here) for one in asked]
    if any(one.location.scheme == "hf" for one in asked):
        # Now, and not in the threads: it replaces the client that they share.
        prepare(_request_patience(here))
        work.append(partial(_ask_hub, here))
    outcomes = run_bounded(work, patience)
    usable = False
    for one, outcome in zip(asked, outcomes, strict=False):
        if outcome.made is not None:
            usable = usable or (one.location.scheme == "hf" and outcome.made[0].level is Level.OK)
            yield from outcome.made
        else:
            late = f"did not answer within {patience:.0f} s"
            reason = late if not outcome.finished else f"failed ({outcome.error!r})"
            yield AREA.find("no-answer", f"{one.location.url} {reason}", url=one.location.url)
    for outcome in outcomes[len(asked) :]:
        # A Hub that is down has been told of already.
        yield from outcome.made or (_silent(here) if usable else ())


def _ask(one: Opened, here: Surroundings) -> list[Finding]:
    begun = time.monotonic()
    access = one.remote.check()
    seconds = time.monotonic() - begun
    one.remote.close()
    location = one.location
    facts: dict[str, Any] = {
        "url": location.url,
        "source": described_source(location, here.settings),
        "mode": "read-write" if location.writable else "read-only",
        "reachable": access.reachable,
        "readable": access.readable,
        "writable": access.writable,
        "seconds": round(seconds, 3),
    }
    detail = f": {access.detail}" if access.detail else ""
    if not access.reachable:
        default = location.source == "remotes" and here.settings.sources["remotes"] == "default"
        kind = "default-unreachable" if default else "unreachable"
        return [AREA.find(kind, f"{location.url} cannot be reached{detail}", **facts)]
    if access.readable is False:
        return [AREA.find("unreadable", f"{location.url} does not let us read{detail}", **facts)]
    if location.writable and access.writable is False:
        return [AREA.find("unwritable", f"{location.url} does not let us write{detail}", **facts)]
    rights = ["may be read" if access.readable else "may be read, perhaps"]
    if location.writable:
        rights.append("and written" if access.writable else "and written, perhaps")
    said = f"{location.url} {' '.join(rights)}; asked in {presentation.duration(seconds)}"
    return [AREA.find("usable", said, **facts)]


def _ask_hub(here: Surroundings) -> list[Finding]:
    """Measure one round trip to the Hub on a connection that is open already, and compare clocks."""
    trip = _round_trip(hub_endpoint(here.environ))
    where = shown(hub_endpoint(here.environ))
    kind = "slow" if trip.seconds > _SLOW else "answers"
    found = [
        AREA.find(
            kind, f"{where} answers in {presentation.duration(trip.seconds)}", endpoint=where, seconds=trip.seconds
        )
    ]
    compared = clock.compare(where, trip.date, time.time())
    return found + ([compared] if compared else [])


def _silent(here: Surroundings) -> Iterator[Finding]:
    where = shown(hub_endpoint(here.environ))
    yield AREA.find("slow", f"{where} does not answer a request for its front page", endpoint=where, seconds=None)


def _request_patience(here: Surroundings) -> float:
    """Return the seconds after which one request is given up: the same for all that share huggingface_hub's client."""
    return min(here.settings.upload_timeout, here.patience / 2)


def _round_trip(endpoint: str) -> _RoundTrip:
    from huggingface_hub import get_session

    session = get_session()
    session.head(endpoint + "/")
    begun = time.monotonic()
    answer = session.head(endpoint + "/")
    return _RoundTrip(time.monotonic() - begun, str(answer.headers.get("Date") or ""))
