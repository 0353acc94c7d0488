"""Reading entries of remotes, which are others' and may be anything: what cannot be shown as it is is left out."""

from neuron_store.cli.reading import read_files
from neuron_store.cli.remotes import Opened
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.registry.entries import LARGEST_ENTRY, Entry, decode_entry
from neuron_store.store.registry.places import Place, is_part

_MOST_FIELDS = 500  # in the `neuron` part of an entry
_LONGEST_TEXT = 1000  # characters
_DEEPEST = 40  # levels of an entry


def read_entries(
    opened: Opened, settings: Settings, places: list[Place], corrupt: dict[str, str]
) -> list[tuple[Place, Entry]]:
    """Return the entries at `places`, without those that are gone; why one is not believed is put into `corrupt`.

    Raises RemoteUnavailable, RemoteRefused.
    """
    once = {(place.compiler, place.release, place.name): place for place in reversed(places)}
    wanted = list(reversed(once.values()))
    made = []
    for place, data in zip(wanted, read_files(opened, settings, [p.path for p in wanted], LARGEST_ENTRY), strict=True):
        try:
            if isinstance(data, CorruptRemote):
                raise data
            if data is not None:
                made.append((place, believed(decode_entry(data, place), place)))
        except CorruptRemote as error:
            corrupt[place.path] = str(error).removeprefix(f"the entry {place.path} cannot be believed: ")
    return made


def believed(entry: Entry, place: Place) -> Entry:
    """Return the entry if it can be shown: it names the model that its path names, and is of a sane size and depth.

    Raises CorruptRemote.
    """
    if place.model_id and entry.model_id != place.model_id:
        raise CorruptRemote(f"it is of {entry.model_id[:_LONGEST_TEXT]}, and not of the model in its path")
    if not is_part(entry.model_type):
        raise CorruptRemote("its model's type is none")
    level: list[object] = [entry.config, entry.neuron]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise CorruptRemote("it is nested too deep")
    level, count = [entry.neuron], 0
    while level:
        level = [inner for outer in level for inner in _inside(outer)]
        count += len(level)
        if count > _MOST_FIELDS or not all(map(_is_plain, level)):
            raise CorruptRemote("what it says of the compile is no configuration")
    return entry


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def _is_plain(value: object) -> bool:
    """Tell whether a part of a configuration can be shown as it is."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and (value.isprintable() or not value)
    if isinstance(value, float):
        return value - value == 0  # neither endless nor no number, which JSON does not have
    return not isinstance(value, int) or abs(value) < 1 << 64
