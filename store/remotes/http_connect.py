"""Connections that cannot hang: names resolved, sockets connected, TLS and proxies, all before one deadline."""

import os
import socket
import time

from neuron_store.store.errors import RemoteUnavailable
from neuron_store.store.remotes.child import ask_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORTS = {"http": 80, "https": 443}
# Where distributions keep the authorities that they trust, for a Python that was built to look elsewhere.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


def connect(host: str, port: int, deadline: float, *, may_fork: bool) -> "socket.socket":
    """Connect to the first address of `host` that answers in time. Raises OSError."""
    addresses = _resolve(host, port, deadline, may_fork=may_fork)
    fault: OSError = OSError(f"{host} has no address")
    for number, (family, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        try:
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:  # a kernel without IPv6, say
            fault = error
            continue
        try:
            made.settimeout(max(0.001, left / (len(addresses) - number)))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            made.close()
            fault = error
            continue
        return made
    raise fault


def _resolve(host: str, port: int, deadline: float, *, may_fork: bool) -> "list[tuple[int, tuple[str, int]]]":
    """Return family and address of each place of `host`, in time: a resolver has no time limit, but can be killed."""
    if host == "localhost" or not may_fork or _is_literal(host):
        return _addresses(host, port)

    def answer() -> bytes:
        try:
            return "\n".join(
                ["found", *(f"{int(family)} {place[0]}" for family, place in _addresses(host, port))]
            ).encode()
        except Exception as error:  # noqa: BLE001 - whatever it is, our parent says it
            return printable(str(error)).encode()

    try:
        lines = ask_in_child(answer, deadline).decode().splitlines()
    except TimeoutError:
        raise TimeoutError(f"{host} was not resolved in time") from None
    if lines[:1] != ["found"]:
        raise OSError(f"{host} was not resolved: {' '.join(lines) or 'no answer'}")
    return [(int(family), (address, port)) for family, _, address in (line.partition(" ") for line in lines[1:])]


def _is_literal(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _addresses(host: str, port: int) -> "list[tuple[int, tuple[str, int]]]":
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def wrap_tls(plain: "socket.socket", host: str, environ: "Mapping[str, str]", deadline: float) -> "socket.socket":
    """Shake hands as a client of `host`, whose certificate must hold. Raises OSError, and closes `plain` then."""
    import ssl

    authorities = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or None
    if authorities and os.path.isdir(authorities):
        context = ssl.create_default_context(capath=authorities)
    elif authorities and not os.path.isfile(authorities):  # a pipe in its place would be read for ever
        raise OSError(f"there is no bundle of certificates {authorities} (REQUESTS_CA_BUNDLE)")
    else:
        context = ssl.create_default_context(cafile=authorities)
    if not authorities and not _has_authorities(context):
        for bundle in filter(os.path.isfile, _BUNDLES):
            context.load_verify_locations(bundle)
    plain.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _has_authorities(context: "object") -> bool:
    import ssl

    paths = ssl.get_default_verify_paths()
    return bool(context.cert_store_stats()["x509_ca"]) or bool(  # type: ignore[attr-defined]  # it is there, without a type
        paths.capath and os.path.isdir(paths.capath) and os.listdir(paths.capath)
    )


def proxy_for(scheme: str, host: str, port: int, environ: "Mapping[str, str]") -> str:
    """Return the proxy's URL, "" for none: `<scheme>_proxy`, `all_proxy`, `no_proxy`, in either case of letters."""
    named = {name.lower(): value for name, value in environ.items() if name.lower().endswith("_proxy") and value}
    proxy = named.get(f"{scheme}_proxy") or named.get("all_proxy") or ""
    if not proxy:
        return ""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # it is there, without a type

    if proxy_bypass_environment(f"{host}:{port}", {"no": named.get("no_proxy", "")}):
        return ""
    return proxy if "://" in proxy else "http://" + proxy


def proxy_address(proxy: str) -> "tuple[str, int]":
    """Return where a proxy listens. Raises RemoteUnavailable for one that does not speak HTTP."""
    scheme, host, port, _ = split_url(proxy)
    if scheme not in DEFAULT_PORTS:
        raise RemoteUnavailable(f"a proxy for {scheme} is of no use here, only one for http")
    return host, port


def proxy_headers(proxy: str) -> "dict[str, str]":
    """Return the header by which a proxy whose URL names a user is told who we are."""
    from urllib.parse import unquote, urlsplit

    if not proxy or not (parts := urlsplit(proxy)).username:
        return {}
    import base64

    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def split_url(url: str) -> "tuple[str, str, int, str]":
    """Return scheme, host, port and request target. Raises RemoteUnavailable for what is no HTTP address."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode()
    except (ValueError, KeyError) as error:
        raise RemoteUnavailable(f"not an address: {shown(url)}") from error
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not host or not target.isascii() or not target.isprintable() or " " in target:
        raise RemoteUnavailable(f"not an address: {shown(url)}")
    return parts.scheme, host, port, target


def authority(scheme: str, host: str, port: int, *, always_port: bool = False) -> str:
    """Return how a host and port are written in an address or a Host header."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if always_port or port != DEFAULT_PORTS.get(scheme) else host


def shown(url: str) -> str:
    """Return an address as messages may tell it: without a user's name and password, and without what signs it."""
    scheme, slashes, rest = url.partition("?")[0].partition("://")
    return printable((scheme + slashes + rest.rpartition("@")[2]) if slashes else scheme.rpartition("@")[2])[:200]


def printable(text: str) -> str:
    """Return text from elsewhere as a log and a terminal can take it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def say(error: BaseException) -> str:
    """Say an error in words that name no header, and repeat nothing that a server said."""
    if not isinstance(error, OSError):
        return type(error).__name__
    return printable(error.strerror or str(error))[:200] or type(error).__name__
