"""The Hub's token: whether there is one, and where. It is never shown."""

import os
from collections.abc import Iterator

from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.store.remotes.location import hub_token_and_source, hub_token_path, list_locations

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

AREA = Area(
    "token",
    {
        "present": ok("There is a token for the Hub. It is never shown; whether it is valid, the remotes tell."),
        "none": note("There is no token for the Hub: public repos can be read, and nothing else.", _LOG_IN),
        "needed": warning("A Hub repo is to be written to, and there is no token for it.", _LOG_IN),
        "malformed": problem(
            "The token has blanks or characters that no token has (a line that was copied with it, quotes), so no remote "
            "on the Hub is used.",
            "log in again with `hf auth login`, or correct HF_TOKEN",
        ),
        "overridden": note(
            "A variable holds a token, and so does the file of `hf auth login`: the variable's counts.",
            "unset the variable if the saved token is meant",
        ),
        "file-open": warning(
            "Others on this host can read the file that the token is saved in.",
            "`chmod 600` the file; make a new token",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look for the token where huggingface_hub does."""
    token, source = hub_token_and_source(here.environ)
    path = hub_token_path(here.environ)
    saved = os.path.isfile(path)
    if not token:
        locations, _ = list_locations(here.settings.remotes, here.environ)
        to_write = [location.url for location in locations if location.scheme == "hf" and location.writable]
        if to_write:
            yield AREA.find("needed", f"there is no token, and {', '.join(to_write)} is to be written to")
        else:
            yield AREA.find("none", "there is no token for the Hub")
    elif not (token.isascii() and token.isprintable()) or " " in token:
        yield AREA.find("malformed", f"what {source} holds cannot be a token", source=source)
    else:
        yield AREA.find("present", f"{source} holds a token", source=source)
    if token and saved and source != path:
        yield AREA.find("overridden", f"{source} comes before the token in {path}", source=source, file=path)
    if saved and os.stat(path).st_mode & 0o044:
        yield AREA.find("file-open", f"{path} has the mode {os.stat(path).st_mode & 0o777:04o}", file=path)
