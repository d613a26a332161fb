"""The one parser of all commands. It loads no library, so that `--help` is there at once."""

import argparse
from functools import partial

from pytest_quantcheck.commands.options import COMPARE, DEQUANTIZE, MEASURE, MERGE, add_options

_SPEC = "NAME@VERSION of a published profile, or the path of a .toml file"

_MEASURE = """\
Measure a model outside pytest, on the machine that has room for it, and store what it did: --out gets one directory
for each prompt set. Without --reference that is the reference at full precision, stored as a baseline for
`pytest --quantcheck-baseline=DIR`. With --reference it is one candidate, --bits or --candidate, measured against
that reference, for `compare`. Options mean what those of pytest with the same name behind --quantcheck- mean. Ini
files play no part. Exit status 2 where nothing could be measured."""

_COMPARE = """\
Compare a candidate's stored measurements with its reference's, judge them by a profile, and print what a gate would.
No model is loaded. Options mean what those of pytest with the same name behind --quantcheck- mean. Ini files play no
part. Exit status 1 where the candidate is not fit for release, 2 where it could not be judged."""

_MERGE = """\
Merge the shards of a measurement, each measured by `measure --shard=K/N` on whichever machine: --out gets one
directory for each prompt set, as if it had been measured at once. No model is loaded. Ini files play no part. Exit
status 2 where shards are missing, occur twice or do not belong together."""

_DEQUANTIZE = """\
Write a GGUF file as a plain checkpoint: configuration, weights, tokenizer and chat template, as the gate reads them
from the file. Other programs need such a directory, for example to quantize the model again; the gate also takes the
file itself. Options mean what those of pytest with the same name behind --quantcheck- mean. Ini files play no part.
Exit status 2 where nothing could be written."""

_DOCTOR = """\
Print the versions of libraries, the devices and instruction sets, memory, disks and threads, which formats of
checkpoints can be gated here and what the others need. What is missing begins with `warning:`. Exit status 0."""

_WHERE = "a directory with a measurement for each prompt set, as `measure --out` writes it, or one of those"


def parser() -> argparse.ArgumentParser:
    """Make the parser; what it returns has the name of the command, whose module does the work."""
    top = argparse.ArgumentParser(
        prog="python -m pytest_quantcheck",
        description="May this quantized model be released? What can be done without pytest; `COMMAND --help` says how.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    add = partial(commands.add_parser, allow_abbrev=False)

    measure = add(
        "measure",
        help="measure a model and store what it did",
        usage="%(prog)s --model MODEL --out DIR [--reference DIR (--bits BITS | --candidate PATH_OR_ID)] [OPTION ...]",
        description=_MEASURE,
    )
    add_options(measure, MEASURE)

    compare = add(
        "compare",
        help="judge a stored measurement by its reference's",
        usage="%(prog)s REF CAND [OPTION ...]",
        description=_COMPARE,
    )
    compare.add_argument("reference", metavar="REF", help=f"the reference's: {_WHERE}")
    compare.add_argument("candidate", metavar="CAND", help="the candidate's, likewise, on the same prompt sets")
    add_options(compare, COMPARE)

    merge = add(
        "merge",
        help="merge shards that were measured one by one",
        usage="%(prog)s SHARD SHARD ... --out DIR [--force]",
        description=_MERGE,
    )
    merge.add_argument("shards", metavar="SHARD", nargs="+", help="the directory of one shard, as `measure` writes it")
    add_options(merge, MERGE)

    dequantize = add(
        "dequantize",
        help="write a GGUF file as a plain checkpoint",
        usage="%(prog)s FILE.gguf --out DIR [--dtype DTYPE]",
        description=_DEQUANTIZE,
    )
    dequantize.add_argument("file", metavar="FILE.gguf", help="the GGUF file, quantized or not")
    add_options(dequantize, DEQUANTIZE)

    profiles = add("profiles", help="look at threshold profiles, and check them")
    _add_verbs(profiles)

    add("doctor", help="say what this environment offers to a gate, and what it lacks", description=_DOCTOR)
    return top


def _add_verbs(profiles: argparse.ArgumentParser) -> None:
    verbs = profiles.add_subparsers(required=True, metavar="show|diff|check", dest="verb")
    show = verbs.add_parser("show", help="print a profile in full: its rule, its limits, and what they rest on")
    show.add_argument("spec", metavar="SPEC", help=_SPEC)

    diff = verbs.add_parser("diff", help="print where two profiles differ; exit status 1 where they do")
    diff.add_argument("old", metavar="SPEC", help=_SPEC)
    diff.add_argument("new", metavar="SPEC", help=_SPEC)

    check = verbs.add_parser("check", help="check profiles; exit status 1 where one is bad")
    check.add_argument("specs", metavar="SPEC", nargs="*", help=f"{_SPEC}; all published ones if none is given")
