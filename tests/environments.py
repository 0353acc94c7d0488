"""Virtual environments of a test's own, made of the interpreter and the packages that run the tests."""

import subprocess
import sys
import sysconfig
from pathlib import Path


def make_venv(folder: Path, *, with_neuron_store: bool) -> Path:
    """Make a virtual environment that sees the packages of this one, and return its interpreter.

    With `with_neuron_store` it sees an editable installation, too.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, stdin=subprocess.DEVNULL)
    interpreter = folder / "bin/python"
    packages = sysconfig.get_path("purelib")
    line = f"import site; site.addsitedir({packages!r})" if with_neuron_store else packages
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "packages-of-the-tests.pth").write_text(line + "\n")
    return interpreter
