"""The options of `neuronx-cc` that are known: how many words each takes, and what each means for a key.

Sources: the AWS Neuron documentation of `neuronx-cc compile`, and command lines seen in frameworks and logs.
The compiler has about 140 options, so this list is incomplete by nature: an option that is not here is kept in
the key as it was written.
"""

# How many words an option takes after itself.
FLAG = 0
VALUE = 1
WORDS = 2  # one or more, up to the next option
UNKNOWN = 3  # not known: words that follow may be its own or the model file

# What an option means for the key.
PLAIN = "plain"  # a word or number: kept as text
TEXT = "text"  # free text: kept, with the contents of files that it mentions
FILE = "file"  # names a file: its content is kept, its path is not
PATH = "path"  # names a directory to work in: kept as text
NEUTRAL = "neutral"  # does not change the output: left out
LEVEL = "level"  # how much is logged: left out if it is one of LEVELS or a number, else a usage error may come of it
OUTPUT = "output"
LOGFILE = "logfile"
TARGET = "target"
# Any other meaning is the reason why the invocation passes through uncached.

OPTIONS: dict[str, tuple[int, str]] = {
    "--auto-cast": (VALUE, PLAIN),
    "--auto-cast-type": (VALUE, PLAIN),
    "--disable-mixed-precision-accumulation": (FLAG, PLAIN),
    "--distribution-strategy": (VALUE, PLAIN),
    "--enable-fast-context-switch": (FLAG, PLAIN),
    "--enable-fast-loading-neuron-binaries": (FLAG, PLAIN),
    "--enable-internal-neff-wrapper": (FLAG, PLAIN),
    "--enable-mixed-precision-accumulation": (FLAG, PLAIN),
    "--enable-saturate-infinity": (FLAG, PLAIN),
    "--fast-math": (WORDS, PLAIN),
    "--framework": (VALUE, PLAIN),
    "--hbm-scratchpad-page-size": (VALUE, PLAIN),
    "--help": (FLAG, "help"),
    "--implicit-integer-downcast": (FLAG, PLAIN),
    "--internal-autotune-config": (VALUE, FILE),
    "--internal-autotune-subprocess": (FLAG, "autotuner"),
    "--internal-backend-options": (VALUE, TEXT),
    "--internal-dma-order-constraints": (VALUE, TEXT),
    "--internal-enable-dge-levels": (WORDS, PLAIN),
    "--internal-hlo2tensorizer-options": (VALUE, TEXT),
    "--internal-tensorizer-opt-level": (VALUE, PLAIN),
    "--io-config": (VALUE, FILE),
    "--jobs": (VALUE, PLAIN),
    "--logfile": (VALUE, LOGFILE),
    "--logfile-verbose": (VALUE, LEVEL),
    "--logical-nc-config": (VALUE, PLAIN),
    "--metrics-timestamp": (UNKNOWN, NEUTRAL),
    "--model-type": (VALUE, PLAIN),
    "--native-int64": (FLAG, PLAIN),
    "--no-fork-subcommand": (FLAG, PLAIN),
    "--no-internal-autotune": (FLAG, PLAIN),
    "--num-parallel-jobs": (VALUE, PLAIN),
    "--optlevel": (VALUE, PLAIN),
    "--output": (VALUE, OUTPUT),
    "--pipeline": (WORDS, "pipeline"),
    "--query-compute-placement": (FLAG, "query_compute_placement"),
    "--run-id": (VALUE, NEUTRAL),
    "--submit-metrics": (UNKNOWN, NEUTRAL),
    "--target": (VALUE, TARGET),
    "--temp-dir": (VALUE, PATH),
    "--tensorizer-options": (VALUE, TEXT),
    "--tolerance": (WORDS, PLAIN),
    "--verbose": (VALUE, LEVEL),
    "--version": (FLAG, "version"),
}

LEVELS = frozenset(("critical", "debug", "error", "info", "none", "silent", "trace", "user", "warning"))

# Other spellings of the same option, all documented.
SPELLINGS = {
    "--lnc": "--logical-nc-config",
    "-O": "--optlevel",
    "-V": "--version",
    "-h": "--help",
    "-lnc": "--logical-nc-config",
    "-o": "--output",
}

# Options of which the rightmost wins, as the documentation says. An option that may add to itself is not here.
COMPETING = {name: name for name, (kind, meaning) in OPTIONS.items() if kind == VALUE and meaning in (PLAIN, TARGET)}
COMPETING["--enable-mixed-precision-accumulation"] = "mixed-precision-accumulation"
COMPETING["--disable-mixed-precision-accumulation"] = "mixed-precision-accumulation"

# Options with one of these meanings must not hide behind an abbreviation that the compiler may accept.
MUST_NOT_BE_ABBREVIATED = tuple(
    name for name, (_, meaning) in OPTIONS.items() if meaning not in (PLAIN, TEXT, FILE, PATH, NEUTRAL, LEVEL, TARGET)
)
