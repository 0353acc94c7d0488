"""Sizes, times and shares as people write them, in settings and on command lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_store.shim.quantities import read_bytes, read_seconds, read_share
from neuron_store.shim.settings import load_settings
from neuron_store.store.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("200G", 200 * 10**9),
        ("200 GB", 200 * 10**9),
        ("1.5k", 1500),
        ("2GiB", 2 << 30),
        ("1t", 10**12),
    ],
)
def test_bytes(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_seconds(text, seconds):
    assert read_seconds(text) == seconds


def test_shares():
    assert read_share("10%", 500) == 50
    assert read_share("2k", 500) == 2000
    assert read_share("0", 500) == 0


@pytest.mark.parametrize("read", [read_bytes, read_seconds, lambda text: read_share(text, 1)])
@pytest.mark.parametrize("text", ["", "-1", "G", "1e3", "nan", "inf", "1 G B", "10%%", "0x10", "\u0661", "1ib"])
def test_what_is_no_quantity(read, text):
    with pytest.raises(ValueError, match="no "):
        read(text)


@given(st.text(max_size=12))
def test_nothing_but_a_value_error_comes_of_any_text(text):
    for read in (read_bytes, read_seconds, lambda word: read_share(word, 10**12)):
        try:
            assert read(text) >= 0
        except ValueError:
            pass


def load(tmp_path, config="", **variables):
    path = tmp_path / "config.toml"
    path.write_text(config)
    return load_settings({"HOME": str(tmp_path), "NEURON_STORE_CONFIG": str(path), **variables})


def test_settings_take_quantities(tmp_path):
    found = load(tmp_path, 'max_size = "200G"\nmax_age = "30d"\nmin_free = "10%"\nkeep_compilers = 2\n')
    assert (found.max_size, found.max_age, found.min_free, found.keep_compilers) == (200 * 10**9, 2592000.0, "10%", 2)
    found = load(tmp_path, "max_size = 5000\nmax_age = 60\nmin_free = 0\n")
    assert (found.max_size, found.max_age, found.min_free) == (5000, 60.0, "0")
    found = load(tmp_path, NEURON_STORE_MAX_SIZE="1GiB", NEURON_STORE_MAX_AGE="2w", NEURON_STORE_MIN_FREE="50G")
    assert (found.max_size, found.max_age, found.min_free) == (1 << 30, 1209600.0, "50G")
    found = load(tmp_path)
    assert (found.max_size, found.max_age, found.min_free, found.max_count) == (0, 0.0, "5%", 0)


@pytest.mark.parametrize(
    "config",
    [
        'max_size = "much"',
        "max_size = -1",
        "max_size = true",
        'max_age = "soon"',
        'min_free = "101%"',
        "min_free = [1]",
    ],
)
def test_settings_that_are_no_quantities_are_refused(tmp_path, config):
    with pytest.raises(ConfigurationError, match=config.split()[0]):
        load(tmp_path, config + "\n")
