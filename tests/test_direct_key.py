"""What belongs to the direct key changes it; what is proven neutral does not. Seen from outside, by hits and misses."""

import pytest

BASE = ["compile", "--framework=XLA", "{m}", "--target=trn1", "--output={o}", "--model-type=transformer"]

NEUTRAL = {
    "same": [],
    "verbose": ["--verbose=35"],
    "verbose as two words": ["--verbose", "info"],
    "log file": ["--logfile={w}/other.log"],
    "log verbosity": ["--logfile-verbose=debug"],
    "run id": ["--run-id=123"],
    "metrics": ["--metrics-timestamp=12", "--submit-metrics=no"],
}

DIFFERENT = {
    "optimisation level": ["-O1"],
    "other optimisation level": ["-O2"],
    "flag": ["--enable-saturate-infinity"],
    "cast": ["--auto-cast=none"],
    "several words": ["--fast-math", "none"],
    "several other words": ["--fast-math", "none", "fp32-cast-all"],
    "unknown option": ["--option-of-tomorrow"],
    "unknown option with value": ["--option-of-tomorrow=1"],
    "unknown option with word": ["--option-of-tomorrow", "1"],
    "jobs": ["--jobs=4"],
    "temp dir": ["--temp-dir=/elsewhere"],
    "text": ["--tensorizer-options=--a --b"],
    "text without space": ["--tensorizer-options=--a--b"],
    "core config": ["--lnc=1"],
    "core config 2": ["--lnc=2"],
}

ENVIRONMENT = [
    "XLA_FLAGS",
    "NEURON_PLATFORM_TARGET_OVERRIDE",
    "NEURON_INTERNAL_USE",
    "NEURON_SCRATCHPAD_PAGE_SIZE",
    "NEURON_REMAT_LARGE_BROADCAST_MIN_SIZE_IN_MB",
    "NEURON_REMAT_LARGE_TP_ALLGATHER_CP_LAYER",
    "NEURON_COLLECTIVE_MATMUL_NXD",
    "NEURON_COLLECTIVE_MATMUL_SB_TO_SB_THRESHOLD_IN_MB",
    "NEURON_COLLECTIVE_PERMUTE_AGGRESSIVE",
    "NEURON_DISABLE_BOUNDARY_MARKER",
    "NEURON_DISABLE_MOVEMENT_OF_SLICE_FROM_PARAM",
    "NEURON_FRAMEWORK_DEBUG",
    "NKI_DEBUG_INFO",
    "XLA_IR_DEBUG",
    "XLA_HLO_DEBUG",
]


def compile_with(host, extra, model, number, **environ):
    words = [*BASE, *extra]
    return host.cc(*[word.format(m=model, o=f"o{number}.neff", w=host.work) for word in words], **environ)


@pytest.mark.parametrize("case", NEUTRAL)
def test_an_output_neutral_option_is_a_hit(host, case):
    model = host.model()
    compile_with(host, [], model, 0)
    compile_with(host, NEUTRAL[case], model, 1)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_every_other_option_is_a_key_of_its_own(host):
    model = host.model()
    for _ in range(2):
        compile_with(host, [], model, 0)
        for number, extra in enumerate(DIFFERENT.values()):
            compile_with(host, extra, model, number)
    assert host.counters() == {"miss_stored": 1 + len(DIFFERENT), "hit_direct": 1 + len(DIFFERENT)}


def test_spellings_of_one_option_are_one_key(host):
    model = host.model()
    for number, extra in enumerate((["--optlevel=2"], ["--optlevel", "2"], ["-O2"], ["-O", "2"])):
        compile_with(host, extra, model, number)
    for number, extra in enumerate((["--lnc=2"], ["-lnc", "2"], ["-lnc=2"], ["--logical-nc-config", "2"])):
        compile_with(host, extra, model, number)
    assert host.counters() == {"miss_stored": 2, "hit_direct": 6}


def test_known_options_in_another_order_are_one_key(host):
    model = host.model()
    compile_with(host, ["-O1", "--lnc=2", "--tensorizer-options=--x"], model, 0)
    compile_with(host, ["--tensorizer-options=--x", "--lnc=2", "-O1"], model, 1)
    before = ["--target=trn1", "-O1", "--model-type", "transformer", "--tensorizer-options=--x"]
    host.cc(*before, "compile", "--lnc", 2, "--framework", "XLA", model, "--output=o.neff")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2}


REORDERED = {
    "unknown options": (["--a", "--b"], ["--b", "--a"]),
    "known ones besides an unknown one": (["--a", "-O1"], ["-O1", "--a"]),
    "options with several words": (["--tolerance", "1", "2", "-O1"], ["-O1", "--tolerance", "1", "2"]),
    "an option that may add to itself": (
        ["--tensorizer-options=--x", "--tensorizer-options=--y"],
        ["--tensorizer-options=--y", "--tensorizer-options=--x"],
    ),
    "an option whose rightmost wins": (["-O1", "-O2"], ["-O2", "-O1"]),
}


@pytest.mark.parametrize("case", REORDERED)
def test_any_other_order_of_options_is_kept(host, case):
    model = host.model()
    for number, options in enumerate(REORDERED[case]):
        compile_with(host, options, model, number)
    assert host.counters() == {"miss_stored": 2}


def test_the_place_of_the_model_among_words_of_an_unknown_option_matters(host):
    model = host.model()
    host.cc("compile", "--new", model, "word", "--target=trn1", "--output=a.neff")
    host.cc("compile", "--new", "word", model, "--target=trn1", "--output=b.neff")
    assert host.counters() == {"miss_stored": 2}


def test_every_known_environment_variable_is_in_the_key(host):
    model = host.model()
    compile_with(host, [], model, 0)
    for name in ENVIRONMENT:
        for value in ("1", "2", ""):
            compile_with(host, [], model, 0, **{name: value})
    assert host.counters() == {"miss_stored": 1 + 3 * len(ENVIRONMENT)}


def test_other_environment_variables_are_not(host):
    model = host.model()
    compile_with(host, [], model, 0)
    others = {"NEURON_CC_FLAGS": "--x", "NEURON_RT_NUM_CORES": "2", "PYTHONHASHSEED": "1", "LANG": "C", "RANK": "3"}
    compile_with(host, [], model, 1, **others)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_one_flipped_bit_of_the_input_is_another_key(host):
    data = bytearray(b"\x0a\x04main" + bytes(5000))
    outputs = set()
    for position in (0, 100, 2500, 5005):
        data[position] ^= 1
        compile_with(host, [], host.model(data=bytes(data)), position)
        outputs.add((host.work / f"o{position}.neff").read_bytes())
    assert len(outputs) == 4
    assert host.counters() == {"miss_stored": 4}


def test_the_compilers_version_is_in_the_key(host):
    model = host.model()
    for version in ("2.14.227.0+2d4f85be", "2.14.227.0+11111111"):
        host.compiler.touch()  # an upgrade writes the script again
        compile_with(host, [], model, 0, STANDIN_VERSION=version)
    assert host.counters() == {"miss_stored": 2}


def test_without_a_target_the_host_is_in_the_key(host):
    model = host.model()
    host.cc("compile", model, "--output=a.neff")
    host.cc("compile", model, "--output=b.neff", "--target=trn1")
    host.cc("compile", model, "--output=c.neff")
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}
