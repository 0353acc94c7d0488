"""The command line of `neuronx-cc` as its callers write it, for the reference compiler.

Options and spellings are those of AWS's public documentation of `neuronx-cc compile` and those seen in the
public sources and logs of torch-xla, torch-neuronx, libneuronxla, NxD, vLLM, NKI and others. The real
compiler has more: `--internal-*` options that are not known here are taken as switches, or with a value after
`=`; any other unknown option is an error.
"""

from __future__ import annotations

import argparse
import re

INFO_LEVEL = 20
_LEVELS = {"debug": 10, "info": INFO_LEVEL, "user": 25, "warning": 30, "error": 40, "critical": 50}
_UNKNOWN_INTERNAL = re.compile(r"--(no-)?internal-[a-z0-9-]+(=.*)?", re.DOTALL)

# None of these changes what is compiled: they are left out of the record in the NEFF.
NEUTRAL_OPTIONS = frozenset(
    {"output", "logfile", "verbose", "logfile_verbose", "run_id", "metrics_timestamp", "submit_metrics"},
)
FILE_OPTIONS = ("io_config", "internal_autotune_config")


def parse_command_line(arguments: list[str]) -> argparse.Namespace:
    """Return the options of `neuronx-cc ARGUMENTS...`: either `version` is set, or `model` is the model file.

    Options may stand before or after `compile`. `internal` holds the internal options that are taken unread.
    Raises SystemExit as argparse does: status 0 after --help, 2 after a message on stderr.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.version:
        return options
    options.internal = [word for word in rest if _UNKNOWN_INTERNAL.fullmatch(word)]
    positional = [word for word in rest if word not in options.internal]
    unknown = [word for word in positional if word.startswith("-")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if positional[:1] != ["compile"]:
        parser.error(f"expected the command compile, not {' '.join(positional[:1]) or 'nothing'}")
    if len(positional) != 2:
        parser.error(f"expected one model file, not {len(positional) - 1}")
    options.model = positional[1]
    return options


def _parser() -> argparse.ArgumentParser:
    # Positionals are not declared: argparse would not accept options on both sides of them.
    parser = argparse.ArgumentParser(
        prog="neuronx-cc",
        usage="%(prog)s [options] compile [options] MODEL_FILE",
        description="A reference neuronx-cc: compiles HLO for this machine's CPUs with XLA.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-V", action="store_true", help="print the versions and exit")
    _add_documented_options(parser)
    _add_logging_options(parser)
    _add_undocumented_options(parser)
    return parser


def _add_documented_options(parser: argparse.ArgumentParser) -> None:
    model_types = ("generic", "transformer", "unet-inference", "cnn-training")
    parser.add_argument("--framework", choices=("XLA",), default="XLA")
    parser.add_argument("--target", type=_target, help="inf2, trn1, trn1n, trn2")
    parser.add_argument("--model-type", choices=model_types, default="generic")
    parser.add_argument("--auto-cast", choices=("none", "matmult", "all"), default="none")
    parser.add_argument("--auto-cast-type", choices=("bf16", "fp16", "tf32", "fp8_e4m3"), default="bf16")
    parser.add_argument("--distribution-strategy")
    parser.add_argument("--logical-nc-config", "--lnc", "-lnc", type=int, choices=(1, 2))
    parser.add_argument("--optlevel", "-O", type=int, choices=(1, 2, 3), default=2, help="default: 2")
    for switch in (
        "--native-int64",
        "--implicit-integer-downcast",
        "--enable-mixed-precision-accumulation",
        "--disable-mixed-precision-accumulation",
        "--enable-saturate-infinity",
        "--enable-fast-context-switch",
    ):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--enable-fast-loading-neuron-binaries", action="store_true", help="plain NEFF")
    parser.add_argument("--output", "-o", default="file.neff", help="default: file.neff")


def _add_logging_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--logfile", default="log-neuron-cc.txt", help="default: log-neuron-cc.txt")
    parser.add_argument("--verbose", type=_level, default=_LEVELS["user"], help="a number or a word")
    parser.add_argument("--logfile-verbose", type=_level, default=_LEVELS["debug"])
    parser.add_argument("--run-id")
    parser.add_argument("--metrics-timestamp")
    parser.add_argument("--submit-metrics", action="store_true")


def _add_undocumented_options(parser: argparse.ArgumentParser) -> None:
    for switch in ("--enable-internal-neff-wrapper", "--query-compute-placement", "--no-fork-subcommand"):
        parser.add_argument(switch, action="store_true")
    for valued in (
        "--hbm-scratchpad-page-size",
        "--jobs",
        "--num-parallel-jobs",
        "--temp-dir",
        "--io-config",
        "--tensorizer-options",
        "--internal-autotune-config",
        "--internal-hlo2tensorizer-options",
        "--internal-backend-options",
        "--internal-dma-order-constraints",
        "--internal-tensorizer-opt-level",
    ):
        parser.add_argument(valued)
    for many in ("--pipeline", "--fast-math", "--internal-enable-dge-levels"):
        parser.add_argument(many, nargs="+", metavar="WORD")
    parser.add_argument("--tolerance", nargs=2, metavar=("A", "B"))


def _target(word: str) -> str:
    if not re.fullmatch(r"(inf|trn)[1-9][a-z]*", word):
        raise argparse.ArgumentTypeError(f"no such target: {word!r}")
    return word


def _level(word: str) -> int:
    if word.isdecimal():
        return int(word)
    if word.lower() not in _LEVELS:
        raise argparse.ArgumentTypeError(f"no such level: {word!r}")
    return _LEVELS[word.lower()]
