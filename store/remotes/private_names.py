r"""What must not leave the host with a result: who and where it was made, absolute paths, tokens.

What is replaced, in every text that is uploaded:

    <path>     an absolute path: slashes that begin a word (or %2F, or those of file://), and what follows them to the
               next blank, quote or bracket
    <user>     the user's login name, as a whole word
    <host>     the host's name, with or without a domain, in letters of either case, as a whole word
    <token>    access tokens of the Hub, AWS and the like; the value of any variable named after a secret, wherever it
               stands, and what follows such a name and "="; who an address with "@" in it says we are
"""

import os
import re

from neuron_store.store.remotes.location import all_hub_tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_INSIDE = r"(?:\\.|[^\s\"'`<>|;,()\[\]{}\\])"
_PATH = re.compile(
    # Not within a relative path, nor in a URL behind its host; but after a single-letter option (-I/usr/include).
    r"(?:(?:(?<![\w.~%/-])|(?<=[\s=,]-[A-Za-z])|(?<=^-[A-Za-z])|(?<=://)|(?<![\w/])~[\w.-]*)/(?![\s/])"
    r"|(?<![\w.~%/:-])//+(?![\s/])|(?<![\w.~%/-])%2[Ff](?=[\w.%~-])|(?<=\bfile:)//+(?![\s/]))" + _INSIDE + "+"
)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|hf_jwt_[\w.-]{8,}|api_org_[A-Za-z0-9]{8,}|(?:AKIA|ASIA)[0-9A-Z]{12,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{8,}|(?<![\w-])sk-[\w-]{20,})"
    r"|(?<![\w.-])eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"
    r"|(?<=\bBearer )[\w.~+/=-]{8,}|(?<=\bBasic )[A-Za-z0-9+/=]{12,}"
    r"|(?<=://)[^\s/@\"'<>]+(?=@)"
)
_IN_SECRET_NAMES = r"TOKEN(?!S\b|S_|IZ)|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"  # noqa: S105 - a pattern, no password
_SECRET_NAME = re.compile(_IN_SECRET_NAMES, re.IGNORECASE)
_SECRET_SAID = re.compile(rf"(\b(?=[A-Z0-9_]{{0,80}}?(?:{_IN_SECRET_NAMES}))[A-Z0-9_]+=)[^\s\"'<>]+")
_SHORTEST_SECRET = 6  # characters; a shorter value is no secret, and would be found everywhere


class PrivateNames:
    """The names of one host and user that are taken out of what is uploaded."""

    def __init__(
        self,
        *,
        users: "Iterable[str]" = (),
        hosts: "Iterable[str]" = (),
        folders: "Iterable[str]" = (),
        secrets: "Iterable[str]" = (),
    ) -> None:
        """`folders` are absolute paths that are known to be someone's own, which may have blanks in them."""
        self._listed = {
            "users": tuple(users),
            "hosts": tuple(hosts),
            "folders": tuple(folders),
            "secrets": tuple(secrets),
        }
        self._secrets = _alternatives(self._listed["secrets"], _SHORTEST_SECRET, words=False)
        self._folders = _below(self._listed["folders"])
        self._users = _alternatives(self._listed["users"], 2, words=True)
        self._hosts = _alternatives(
            (name for host in self._listed["hosts"] for name in (host, host.partition(".")[0])),
            2,
            words=True,
            more=r"(?:\.[A-Za-z0-9-]*[A-Za-z0-9])*",
            flags=re.IGNORECASE,
        )

    @classmethod
    def of_host(cls, environ: "Mapping[str, str]") -> "PrivateNames":
        """Return the names of this host and of the user whose environment is `environ`."""
        users = [environ[name] for name in ("USER", "LOGNAME", "SUDO_USER") if environ.get(name)]
        folders = [environ[name] for name in ("HOME", "PWD", "TMPDIR") if environ.get(name)]
        try:
            import pwd

            entry = pwd.getpwuid(os.getuid())
            users.append(entry.pw_name)
            folders.append(entry.pw_dir)
        except (ImportError, KeyError):
            pass  # a user without an entry, as in many containers
        hosts = [os.uname().nodename, environ.get("HOSTNAME", "")]
        secrets = [value for name, value in environ.items() if is_secret_name(name) and not _names_file(name, value)]
        secrets += all_hub_tokens(environ)
        return cls(users=users, hosts=hosts, folders=[folder for folder in folders if folder != "/"], secrets=secrets)

    def joined_with(self, others: "Mapping[str, Iterable[str]]") -> "PrivateNames":
        """Return the same with more names, by their kinds: users, hosts, folders, secrets."""
        listed = {
            kind: (*names, *(name for name in others.get(kind, ()) if isinstance(name, str)))
            for kind, names in self._listed.items()
        }
        return PrivateNames(**listed)

    def found_in(self, texts: "Iterable[str]") -> "dict[str, list[str]]":
        """Return, by kind, the names that occur in `texts`: who uploads them later may not know that they are private."""
        everything = "\0".join(texts).lower()
        return {
            kind: sorted({name for name in names if name and name.lower() in everything})
            for kind, names in self._listed.items()
        }

    def redact_secrets(self, text: str) -> str:
        """Return `text` without tokens, keys and passwords; names and paths stay."""
        for pattern, instead in ((self._secrets, "<token>"), (_SECRET_SAID, r"\1<token>"), (_TOKEN, "<token>")):
            if pattern is not None:
                text = pattern.sub(instead, text)
        return text

    def redact(self, text: str) -> str:
        """Return `text` without anything private."""
        text = self.redact_secrets(text)
        for pattern, instead in (
            (self._folders, "<path>"),
            (_PATH, "<path>"),
            (self._hosts, "<host>"),
            (self._users, "<user>"),
        ):
            if pattern is not None:
                text = pattern.sub(instead, text)
        return text

    def redact_bytes(self, data: bytes) -> bytes:
        """Return captured text without anything private; bytes that are no UTF-8 stay as they are."""
        text = data.decode("utf-8", "surrogateescape")
        return self.redact(text).encode("utf-8", "surrogateescape")

    def redact_field(self, component: str, field: str) -> str:
        """Return one field of a key's component without anything private."""
        if component == "environment":
            name, equals, value = field.partition("=")
            if not equals:  # `salt …`, which those who share it know
                return field.partition(" ")[0] + " <salt>"
            if _SECRET_NAME.search(name):
                return name + "=<token>"
            return f"{name}={self.redact(value)}"
        return self.redact(field)


def _names_file(name: str, value: str) -> bool:
    """Tell whether a variable says where a secret lies (HF_TOKEN_PATH): that is private, but no secret."""
    return value.startswith(("/", "~")) and name.upper().endswith(("_PATH", "_FILE", "_DIR"))


def is_secret_name(name: str) -> bool:
    """Tell whether what bears this name is a secret."""
    return _SECRET_NAME.search(name) is not None


def _alternatives(
    names: "Iterable[str]", shortest: int, *, words: bool, more: str = "", flags: int = 0
) -> "re.Pattern[str] | None":
    """Return what finds any of `names`, the longest first; as whole words, with what `more` finds behind them."""
    listed = sorted({name for name in names if len(name) >= shortest}, key=len, reverse=True)
    if not listed:
        return None
    joined = "|".join(map(re.escape, listed))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{joined})(?![A-Za-z0-9]){more}" if words else joined, flags)


def _below(folders: "Iterable[str]") -> "re.Pattern[str] | None":
    """Return what finds each folder, with what lies below it."""
    listed = sorted({folder.rstrip("/") for folder in folders if folder.startswith("/")} - {""}, key=len, reverse=True)
    if not listed:
        return None
    return re.compile(rf"(?:{'|'.join(map(re.escape, listed))})(?:/{_INSIDE}*|(?![\w.-]))")
