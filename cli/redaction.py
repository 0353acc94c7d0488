r"""Taking out of a bug report whatever tells who and where we are, or opens anything, so that it can be published.

<token>     what PrivateNames takes for a secret; what follows a secret's name and `=` or `:`, in letters of any
            case, quoted or not; the credentials of an address, and what signs it; an Authorization header; a
            private key; the salt of the key
~           the user's home
USER        the user's names; USER-2 … of others, where a home below /home tells them
HOST-1 …    hosts: this one's names, those in an address that is not public, and EC2's names; the same host is the
            same word wherever it stands
ADDRESS-1 … IP addresses that are not this host's own loopback
EMAIL       addresses of mail
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from neuron_store.store.remotes.location import without_credentials
from neuron_store.store.remotes.private_names import PrivateNames, is_secret_name

_SECRET = "<token>"  # noqa: S105 - what stands in the place of one
_SHORTEST_SECRET = 6  # characters, as in PrivateNames
_NAMED = re.compile(
    r"(?P<name>(?:token|secret|passw(?:or)?d|passphrase|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"private[_-]?key|signature|salt)[\w-]{0,20}[\"']?\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&\"'<>)\]}]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)[^\"'\r\n]+|(\bset-cookie|\bcookie)(\s*:\s*)[^\r\n]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_SIGNED = re.compile(
    r"([?&](?:X-Amz-[\w-]+|Signature|Key-Pair-Id|Policy|sig|sv|se|AWSAccessKeyId|code|auth)=)[^\s&\"'<>]+",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?<![\w-])(--?[\w-]{0,40}?(?:token|secret|passw(?:or)?d|api-?key)[\w-]{0,20}\s+)[^\s-][^\s]*", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_LOOSE_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}|(?:AKIA|ASIA)[0-9A-Z]{12,}")  # inside a file's name, say
_BEFORE_COMMENT = re.compile(r"""((?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*')*)(?:#.*)?$""")
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_EC2_NAME = re.compile(r"\bip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?:\.[\w-]+)*", re.IGNORECASE)
_PART = r"\d{1,3}"
# Of a private network wherever it stands; another only where it must be an address: a version may look like one.
_ADDRESS = re.compile(
    rf"(?<![\w.+-])(?:10\.{_PART}|192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01])|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))"
    rf"\.{_PART}\.{_PART}(?![\w+-]|\.\d)"
    rf"|(?:(?<=://)|(?<=@))(?:{_PART}\.){{3}}{_PART}(?![\w.])"
    rf"|(?<![\w.+-])(?:{_PART}\.){{3}}{_PART}(?=:\d)"
    r"|(?<![\w:])(?:fe80|f[cd][0-9a-f]{2}):[0-9a-f:]+",
    re.IGNORECASE,
)
_HOMES = re.compile(r"(?<![\w.-])(/(?:[\w.-]+/)*?(?:home|Users)/)([\w.-]+)")
_PUBLIC_HOSTS = re.compile(
    r"(?:^|\.)(?:huggingface\.co|hf\.co|amazonaws\.com|github\.com|pypi\.org)$|^localhost$|^127\.|^\[?::1"
)
_COMMON_NAMES = {"root", "nobody", "user"}  # words that tell nobody's name


class Redactor:
    """Replaces the same thing by the same word in every text that it is given."""

    def __init__(self, environ: Mapping[str, str], *, hosts: Iterable[str] = (), secrets: Iterable[str] = ()) -> None:
        """`hosts` and `secrets` are known besides those that the environment tells."""
        self._names = PrivateNames.of_host(environ).joined_with(
            {"secrets": [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]}
        )
        self._hosts: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._users: dict[str, str] = {}
        self._homes = _homes(environ)
        for user in _users(environ):
            self._users[user] = "USER"
        for host in (*_hosts(environ), *hosts):
            self._name_host(host)

    def text(self, text: str) -> str:
        """Return `text` with everything private replaced."""
        text = _PRIVATE_KEY.sub(_SECRET, text)
        text = _HEADER.sub(lambda found: (found[1] or f"{found[2]}{found[3]}") + _SECRET, text)
        text = _BEARER.sub(rf"\1 {_SECRET}", text)
        text = self._names.redact_secrets(text)
        text = without_credentials(text)
        text = _SIGNED.sub(rf"\1{_SECRET}", text)
        text = _NAMED.sub(_without_value, text)
        text = _OPTION.sub(rf"\1{_SECRET}", text)
        text = _LOOSE_TOKEN.sub(_SECRET, text)
        return self._places(text)

    def value(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return a JSON-ready value with everything private replaced, in keys, too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self._named(str(name), each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value

    def _named(self, name: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, str) and value and (is_secret_name(name) or "salt" in name.lower()):
            return _SECRET
        return self.value(value)

    def _places(self, text: str) -> str:
        for home in self._homes:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
        text = _HOMES.sub(lambda found: found[1] + self._name_user(found[2]), text)
        text = _MAIL.sub("EMAIL", text)
        text = _EC2_NAME.sub(lambda found: self._name_host(found[0]), text)
        text = _ADDRESS.sub(lambda found: self._name_address(found[0]), text)
        for host in sorted(self._hosts, key=len, reverse=True):
            text = _whole(host, r"(?:\.[a-z0-9-]*[a-z0-9])*").sub(self._hosts[host], text)
        for user in sorted(self._users, key=len, reverse=True):
            text = _whole(user).sub(self._users[user], text)
        return text

    def _name_host(self, host: str) -> str:
        """Return the word for a host; one with its domain is the same as without."""
        short = host if _is_address(host) else host.partition(".")[0]
        key = short.lower()
        if len(key) < 2 or key == "localhost":
            return host
        return self._hosts.setdefault(key, f"HOST-{len(self._hosts) + 1}")

    def _name_address(self, address: str) -> str:
        if address.startswith(("127.", "0.")):
            return address
        return self._addresses.setdefault(address, f"ADDRESS-{len(self._addresses) + 1}")

    def _name_user(self, user: str) -> str:
        if user in _COMMON_NAMES or user.startswith("USER"):
            return user
        return self._users.setdefault(user, f"USER-{len(self._users) + 1}")


def without_comments(text: str) -> str:
    """Return the text of a TOML file, also of a broken one, with its lines as they are but for comments."""
    return "\n".join(_before_comment(line) for line in text.split("\n"))


def _before_comment(line: str) -> str:
    found = _BEFORE_COMMENT.match(line)
    # In a line that is not understood, such as one of a string over several lines, any # may begin one.
    return found[1].rstrip() if found else line.partition("#")[0].rstrip()


def _without_value(found: "re.Match[str]") -> str:
    value = found["value"]
    if value.strip("\"'").lower() in ("", _SECRET, "true", "false", "null", "none", "0", "1"):
        return found[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found['name']}{quote}{_SECRET}{quote}"


def _whole(name: str, more: str = "") -> "re.Pattern[str]":
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9]){more}", re.IGNORECASE)


def _is_address(host: str) -> bool:
    return bool(re.fullmatch(r"[\d.]+", host)) or ":" in host


def _homes(environ: Mapping[str, str]) -> list[str]:
    homes = {environ.get("HOME", ""), os.path.expanduser("~")}
    homes |= {os.path.realpath(home) for home in homes if home}
    return sorted((home.rstrip("/") for home in homes if home.startswith("/") and home != "/"), key=len, reverse=True)


def _users(environ: Mapping[str, str]) -> list[str]:
    users = {environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    try:
        import pwd

        users.add(pwd.getpwuid(os.getuid()).pw_name)
    except (ImportError, KeyError):
        pass  # a user without an entry, as in many containers
    return sorted(user for user in users if len(user) > 1 and user not in _COMMON_NAMES)


def _hosts(environ: Mapping[str, str]) -> list[str]:
    found = [os.uname().nodename, environ.get("HOSTNAME", "")]
    for name, value in environ.items():
        if name == "HF_ENDPOINT" or name.lower().endswith("_proxy"):
            try:
                host = urlsplit(value if "://" in value else f"//{value}").hostname or ""
            except ValueError:
                continue
            if not _PUBLIC_HOSTS.search(host):
                found.append(host)
    return found
