"""The table of options.

pytest's command line, its ini file and our own commands are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_quantcheck.bit_widths import SPELLINGS
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options.labels import DEFAULT_PROFILE

if TYPE_CHECKING:
    import pytest

_ARGPARSE = {"text": "store", "list": "append", "flag": "store_true"}
_INI: dict[str, Literal["string", "linelist", "bool"]] = {"text": "string", "list": "linelist", "flag": "bool"}

_START_A_GATE = ("model", "candidate", "controls", "only", "dry-run", "trial", "calibrate", "update-baseline")

_OURS = "quantcheck"
"""What every ini key of ours begins with."""

_ALIKE = 0.9
"""Similarity of that word to itself with one letter left out, doubled or replaced, or with two exchanged."""


def late(name: str, *arguments: Any) -> Callable[[str], Any]:
    """Make a parser that imports its function when first used.

    `name` is `module.function` in this package; with `arguments`, that function makes the parser.

    Every pytest run imports this table, and most parse nothing of ours.
    """

    def parse(raw: str) -> Any:
        module, function = name.split(".")
        imported = getattr(import_module(f"pytest_quantcheck.options.{module}"), function)
        return (imported(*arguments) if arguments else imported)(raw)

    return parse


class Option(NamedTuple):
    """One option: `--quantcheck-NAME` on the command line, `quantcheck_NAME` in the ini file.

    `default` is spelled as a user would spell it; None means that nothing is set.
    """

    name: str
    summary: str
    default: str | None = None
    parse: Callable[[str], Any] = late("values.parse_text")
    metavar: str | None = None
    kind: Literal["text", "list", "flag"] = "text"

    @property
    def field(self) -> str:
        """Name of its field in `Settings`."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """How it is spelled on the command line."""
        return f"--quantcheck-{self.name}"

    @property
    def dest(self) -> str:
        """Its name in the ini file and in pytest's option namespace."""
        return f"quantcheck_{self.field}"

    @property
    def help(self) -> str:
        """One sentence that states the default."""
        default = "off" if self.kind == "flag" else self.default or "none"
        again = ", may be repeated" if self.kind == "list" else ""
        return f"{self.summary} (default: {default}{again})."

    def is_given(self, config: pytest.Config) -> bool:
        """Whether the command line or the ini file sets it."""
        return config.getoption(self.dest) is not None or bool(config.getini(self.dest))

    def read(self, config: pytest.Config) -> Any:
        """Read the value: from the command line, the ini file or the default."""
        import pytest  # noqa: PLC0415 - our own commands read this table without it

        said = config.getoption(self.dest)
        place = self.flag if said is not None else f"{self.dest} in {config.inipath or 'the ini settings'}"
        try:
            return self.value(said if said is not None else config.getini(self.dest) or None)
        except (ValueError, pytest.UsageError) as problem:  # the latter from an ini flag, unnamed
            raise SettingsError(f"{place}: {problem}") from None

    def value(self, raw: Any = None) -> Any:
        """Parse the user's text, texts or flag; the default where `raw` is None.

        Raises `ValueError` with what was expected and what came.
        """
        return self._value(self._default if raw is None else raw)

    @property
    def _default(self) -> str | list[str] | None:
        return [self.default] if self.kind == "list" and self.default else self.default

    def _value(self, raw: Any) -> Any:
        if self.kind == "flag":
            return bool(raw)
        if self.kind == "list":
            return tuple(self._parsed(item) for item in raw or ())
        return None if raw is None else self._parsed(raw)

    def _parsed(self, raw: str) -> Any:
        """Parse one text; refuse undecodable bytes, as reports cannot hold them."""
        if any("\ud800" <= letter <= "\udfff" for letter in raw):
            raise ValueError(f"expected text, got {raw!a}, which is not UTF-8; rename the file or directory")
        return self.parse(raw)


OPTIONS: tuple[Option, ...] = (
    Option(
        "model",
        "model to gate, by the packaged suite beside any tests of your own: hub id, directory, .gguf file or 'builtin'",
        metavar="MODEL",
    ),
    Option("revision", "revision of the model on the hub", metavar="REVISION"),
    Option(
        "candidate",
        "gate this quantized checkpoint: a directory, a .gguf file or a hub id",
        None,
        late("candidate.parse_candidate"),
        "PATH_OR_ID[@REVISION]",
        "list",
    ),
    Option(
        "bits",
        f"gate the model quantized at these bit-widths: {', '.join(SPELLINGS)}; none where "
        "--quantcheck-candidate is given alone",
        "8,4",
        late("values.parse_bits"),
    ),
    Option(
        "dtype", "precision of the reference: bf16, fp16, fp32 or the checkpoint's", "auto", late("values.parse_dtype")
    ),
    Option(
        "prompts",
        "prompt set: 'builtin', a CSV or JSONL file with prompt and gold, or hf:NAME",
        "builtin",
        metavar="SOURCE",
        kind="list",
    ),
    Option(
        "columns",
        "columns that have prompt and gold in CSV and JSONL files, such as prompt=question,gold=answer",
        "prompt=prompt,gold=gold",
        late("columns.parse_columns"),
        "prompt=COLUMN,gold=COLUMN",
    ),
    Option(
        "template",
        "how prompts are put to the model: auto, chat, raw or a format with {prompt}",
        "auto",
        late("values.parse_template_text"),
    ),
    Option(
        "samples",
        "measure at most so many prompts of each set",
        "1000",
        late("values.parse_whole", 10, "ten calibration bins need ten prompts"),
        "N",
    ),
    Option("seed", "seed of the order and choice of prompts", "0", late("values.parse_whole", 0), "N"),
    Option(
        "layers",
        "blocks to look into: paper (first, middle, last), all, or numbers",
        "paper",
        late("values.parse_layers"),
    ),
    Option("readout", "how an answer is read: token, choices or substring", "token", late("values.parse_readout")),
    Option(
        "attribution",
        "how answers are attributed to neurons: adaptive, paper, off or nodes=N, then baseline=token|zero and "
        "target=reference|own behind commas",
        "adaptive",
        late("attribution.parse_attribution"),
    ),
    Option(
        "attribution-samples",
        "attribute the answers of so many prompts",
        "64",
        late("values.parse_whole", 1, "--quantcheck-attribution=off attributes none"),
        "N",
    ),
    Option(
        "attribution-tokens",
        "tokens, over prompts and nodes, that attribution evaluates at once: bounds its memory",
        "1024",
        late("values.parse_whole", 1),
        "N",
    ),
    Option(
        "attribution-memory",
        "memory for the model's weights in float32 during attribution, such as 20GiB, or auto for what is free: where "
        "they need more, one block of them is in float32 at a time",
        "auto",
        late("values.parse_memory"),
        "SIZE",
    ),
    Option(
        "continuation",
        "let the reference continue each prompt by up to so many tokens, and score both models on them; 0 for none",
        "16",
        late("values.parse_whole", 0),
        "N",
    ),
    Option(
        "redundancy-neurons",
        "correlate so many neurons of a layer, a seeded sample: all, a number, or auto: all where that takes at most a "
        "tenth of the forward pass, else as many as do",
        "auto",
        late("values.parse_neurons"),
        "N",
    ),
    Option("profile", "threshold profile: NAME@VERSION or a .toml file", DEFAULT_PROFILE),
    Option(
        "fail",
        "replace one limit of the profile, such as ace_drift:0.05",
        None,
        late("values.parse_limit"),
        "METRIC:VALUE",
        "list",
    ),
    Option(
        "allow-unmeasured",
        "let a metric pass that could not be measured, such as salient_overlap",
        None,
        late("values.parse_metric"),
        "METRIC",
        "list",
    ),
    Option(
        "allow-difference",
        "let a released candidate be served otherwise than the reference in this field, such as "
        "generation_config.eos_token_id; the verdict says so",
        None,
        late("values.parse_served_field"),
        "FIELD",
        "list",
    ),
    Option(
        "calibrate",
        "measure harmless and damaged copies of the model, and write a new version of the profile of that name with "
        "limits between the two",
        None,
        late("values.parse_new_profile"),
        "NAME[@VERSION]",
    ),
    Option(
        "calibrate-rate",
        "share of harmless candidates that the new profile may fail",
        "0.01",
        late("values.parse_rate"),
        "RATE",
    ),
    Option(
        "calibrate-directory",
        "directory of profiles that the new one is written into",
        "thresholds",
        late("values.parse_directory"),
        "DIR",
    ),
    Option(
        "baseline",
        "take the reference's measurement from this directory, and leave the reference alone",
        None,
        late("values.parse_directory"),
        "DIR",
    ),
    Option("update-baseline", "measure the reference, and write that into the directory of the baseline", kind="flag"),
    Option(
        "cache",
        "keep measurements in this directory, take from it what was measured before, and go on where a run stopped",
        None,
        late("values.parse_directory"),
        "DIR",
    ),
    Option(
        "device",
        "where models run: cpu, cuda, cuda:N, or auto: the first GPU or the CPU, and where a model does not fit there, "
        "all GPUs, the CPU and disk",
        "auto",
        late("values.parse_device"),
    ),
    Option(
        "max-memory",
        "memory that weights may take of a device, such as cuda:0:60GiB,cpu:200GiB; of others what is free, and the "
        "rest is read from disk",
        None,
        late("values.parse_max_memory"),
        "DEVICE:SIZE,...",
    ),
    Option("batch-size", "prompts in one forward pass", "16", late("values.parse_whole", 1), "N"),
    Option(
        "shard-size",
        "prompts, about, that are measured, cached and given to a worker as one part of a prompt set",
        "128",
        late("values.parse_whole", 1),
        "N",
    ),
    Option(
        "engine",
        "what measures: local, this process, or with the extra 'cluster' ray, several on one machine or many",
        "local",
        late("values.parse_engine"),
        "ENGINE",
    ),
    Option(
        "engine-address",
        "Ray cluster to join, HOST:PORT or 'auto' for the one that this machine belongs to; without it one is started "
        "here",
        None,
        late("values.parse_address"),
        "ADDRESS",
    ),
    Option(
        "workers",
        "processes that measure with the engine ray, each with a model of its own; without it as many as there are "
        "GPUs for, or one for each node",
        None,
        late("values.parse_whole", 1),
        "N",
    ),
    Option(
        "gpus-per-worker",
        "GPUs of each worker, or the share of one; without it 1 where there are any",
        None,
        late("values.parse_gpus"),
        "N",
    ),
    Option(
        "cpus-per-worker",
        "CPUs and threads of each worker; without it 1 beside a GPU, else an equal share of a node's",
        None,
        late("values.parse_whole", 1),
        "N",
    ),
    Option(
        "worker-timeout",
        "seconds without progress after which a worker is ended, and its shard measured by another",
        "1800",
        late("values.parse_whole", 1),
        "SECONDS",
    ),
    Option(
        "report",
        "write report.json and, with the extra 'report', report.html into this directory",
        None,
        late("values.parse_directory"),
        "DIR",
    ),
    Option(
        "controls",
        "also find out whether the gate works: models that must pass, and damaged copies of the model that must not",
        kind="flag",
    ),
    Option("only", "collect the packaged suite and nothing else", kind="flag"),
    Option("dry-run", "check all that shows without weights, say what would be measured, load nothing", kind="flag"),
    Option(
        "trial", "dry run that also measures some prompts with each model: how long the run would take", kind="flag"
    ),
    Option(
        "neurons",
        "path of each FFN's activation module, {} for the block's number, for unknown architectures",
        metavar="PATTERN",
    ),
    Option("trust-remote-code", "run code that the model brings", kind="flag"),
    Option("allow-pickle", "load weights that are pickled, which can run any code", kind="flag"),
)


def register(parser: pytest.Parser) -> None:
    """Give pytest every option and its ini twin."""
    group = parser.getgroup("quantcheck", "acceptance tests for quantized language models")
    for option in OPTIONS:
        shown = {} if option.kind == "flag" else {"metavar": option.metavar or option.field.upper()}
        group.addoption(
            option.flag, dest=option.dest, action=_ARGPARSE[option.kind], default=None, help=option.help, **shown
        )
        parser.addini(option.dest, option.help, type=_INI[option.kind], default=None)


def asked(config: pytest.Config) -> bool:
    """Tell whether an option starts a gate, or needs one."""
    return any(option.read(config) for option in OPTIONS if option.name in _START_A_GATE)


def might_be_asked(config: pytest.Config, arguments: Sequence[str]) -> bool:
    """Tell whether a gate may be asked for, before options are read.

    The ini file may not be found yet either.
    """
    if any(argument.startswith(f"--{_OURS}-") for argument in arguments):
        return True
    return config.inipath is not None and any(config.getini(o.dest) for o in OPTIONS if o.name in _START_A_GATE)


def check_ini_keys(config: pytest.Config) -> None:
    """Refuse an ini key of ours that is no option.

    Raises:
        SettingsError: names the key and the most similar option.
    """
    for key in sorted(config._get_unknown_ini_keys()):  # noqa: SLF001 - no public way
        if not _is_meant_for_us(key):
            continue
        from pytest_quantcheck.text import nearest  # noqa: PLC0415 - rarely needed

        keys = [option.dest for option in OPTIONS]
        raise SettingsError(
            f"{config.inipath or 'the ini settings'}: expected an option of the gate, got {key!r}, which is none."
            f"{nearest(key, keys)} `pytest --help` lists them all."
        )


def _is_meant_for_us(key: str) -> bool:
    """Tell whether a key begins with our name or a misspelling.

    pytest ignores unknown keys, so a gate whose model has a misspelt key would not run, and nobody would notice.
    """
    import difflib  # noqa: PLC0415 - rarely needed

    letters = re.sub(r"[^a-z]", "", key.lower())
    return difflib.SequenceMatcher(None, _OURS, letters[: len(_OURS)]).ratio() >= _ALIKE
