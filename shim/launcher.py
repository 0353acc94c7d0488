"""Generate the launcher: a program named `neuronx-cc`, in a folder of its own, that starts the shim.

It starts the interpreter of this installation isolated (-I) and without site-packages' start-up code (-S), because a
hit is little more than an interpreter's start. So it carries explicit paths: where the floors of `neuron_store`
stand (a wheel's folder or a checkout), the site-packages, and the two C extensions of the hit path.

In a virtual environment the launcher lies inside it, so that both vanish together and PATH leads on to the real
compiler; elsewhere it lies in the user's data folder.
"""

import os
import shlex
import site
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from neuron_store.hashing.native import EXTENSIONS
from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.shim.real_compiler import PROGRAM, SHIM_MARK
from neuron_store.shim.version import VERSION
from neuron_store.store.errors import StoreUnavailable

# The kernel reads 127 bytes of a #! line on old systems, and takes a space for the end of the path.
_LONGEST_SHEBANG = 127

# The mark comes first, for others look for it in the file's first bytes only, and an interpreter's path may be long.
_TEMPLATE = """\
{first_line}
# {mark} {version}; written by `neuron-store env`, which writes it again when it changes
{by_way_of_sh}import sys
try:
    package = type(sys)("neuron_store")
    package.__path__ = {floors!a}
    package.__extensions__ = {extensions!a}
    sys.modules["neuron_store"] = package
    sys.path += {packages!a}
    from neuron_store.shim.main import main
    main()
except Exception:
    # neuron-store is damaged or gone: be the real compiler, if there is one.
    import os, signal
    depth = os.environ.get("NEURON_STORE_ACTIVE", "0")
    os.environ["NEURON_STORE_ACTIVE"] = str(int(depth) + 1 if depth.isdigit() else 1)
    named = os.environ.get("NEURON_STORE_COMPILER")
    found = [named] if named else []
    found += [os.path.join(d or ".", "neuronx-cc") for d in os.environ.get("PATH", os.defpath).split(":")]
    for program in found if len(depth) < 2 else []:
        try:
            with open(program, "rb") as file:
                head = file.read(512)
        except OSError:
            # Too many open files, say: it can be run for all that, unless it is this very program.
            head = b"" if not os.path.exists(program) or not os.path.samefile(program, __file__) else {mark!r}.encode()
        try:
            if os.access(program, os.X_OK) and not os.path.isdir(program) and {mark!r}.encode() not in head:
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                os.execv(program, [program] + sys.argv[1:])
        except OSError:
            pass
    sys.stderr.write("neuron-store is damaged and no other neuronx-cc is on PATH; install it again\\n")
    sys.exit(127)
"""


def launcher_folder() -> Path:
    """Return the folder to put first on PATH. It holds the launcher and nothing else."""
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix) / "libexec" / "neuron-store"
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "neuron-store" / "launchers" / xxh3_hex(sys.executable.encode())[:12]


def write_launcher(folder: "Path | None" = None) -> Path:
    """Write the launcher, unless it is there and the same, and return its path. Raises StoreUnavailable."""
    path = (folder or launcher_folder()) / PROGRAM
    text = os.fsencode(launcher_text())
    try:
        if path.read_bytes() == text and os.access(path, os.X_OK):
            return path
    except OSError:
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{PROGRAM}.{os.getpid()}")
        temporary.write_bytes(text)
        temporary.chmod(0o755)
        temporary.replace(path)
    except OSError as error:
        remedy = "" if path.is_relative_to(sys.prefix) else ", or set XDG_DATA_HOME to one that is"
        raise StoreUnavailable(
            f"the launcher {path} cannot be written ({error.strerror}); make its folder writable{remedy}"
        ) from error
    return path


def launcher_text() -> str:
    """Return the launcher's program text for the interpreter and installation that run this."""
    import neuron_store.shim

    first_line, by_way_of_sh = start_of_script(sys.executable, "-IS")
    floors = [str(Path(folder).resolve().parent) for folder in neuron_store.shim.__path__]
    return _TEMPLATE.format(
        first_line=first_line,
        by_way_of_sh=by_way_of_sh,
        mark=SHIM_MARK.decode(),
        version=VERSION,
        floors=floors,
        extensions=_extension_files(),
        packages=_package_folders(),
    )


def start_of_script(interpreter: str, options: str = "") -> tuple[str, str]:
    """Return the lines that start `interpreter`: a #! line, and an exec by sh where #! cannot name it.

    `options` is one word, as `-IS`.
    """
    line = f"#!{interpreter} {options}".rstrip()
    if len(os.fsencode(line)) <= _LONGEST_SHEBANG and not any(map(str.isspace, interpreter)):
        return line, ""
    # sh runs the exec; Python sees a string that it throws away.
    return "#!/bin/sh", f"'''exec' {shlex.quote(interpreter)} {options} \"$0\" \"$@\"\n' '''\n"


def _package_folders() -> list[str]:
    known = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        known.append(site.getusersitepackages())
    # Wherever our dependencies really come from (a --target folder, say) counts as well.
    known += [str(Path(file).parent.parent) for file in _extension_files().values()]
    return [folder for folder in dict.fromkeys(known) if folder in sys.path and os.path.isdir(folder)]


def _extension_files() -> dict[str, str]:
    found = {}
    for name in EXTENSIONS:
        package, _, module = name.partition(".")
        folder = Path(str(__import__(package).__file__)).parent
        for suffix in EXTENSION_SUFFIXES:
            if (folder / (module + suffix)).is_file():
                found[name] = str(folder / (module + suffix))
                break
    return found
