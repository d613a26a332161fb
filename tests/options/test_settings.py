"""Options: command line before ini file before default, and a clear sentence for every bad value."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options import OPTIONS, AttributionMethod, Settings, settings_from
from pytest_quantcheck.options.attribution import parse_attribution
from pytest_quantcheck.options.candidate import Released, name_candidates, parse_candidate

CONFTEST = """
from pytest_quantcheck.options import register

def pytest_addoption(parser, pluginmanager):
    if not pluginmanager.has_plugin("quantcheck"):  # the installed plugin has registered them
        register(parser)
"""


@pytest.fixture
def read(pytester):
    """Settings that pytest's own parser makes of arguments and of the lines of an ini file."""

    def read_settings(*arguments, ini=(), model="builtin"):
        pytester.makeconftest(CONFTEST)
        pytester.makeini("\n".join(["[pytest]", *ini]))
        named = [f"--quantcheck-model={model}"] if model is not None else []
        return settings_from(pytester.parseconfig(*named, *arguments))

    return read_settings


def test_defaults_are_the_documented_ones(read):
    """A model alone gives every other setting its default."""
    assert read() == Settings(
        model="builtin",
        revision=None,
        bits=("int8", "nf4"),
        candidate=(),
        dtype="auto",
        prompts=("builtin",),
        columns={"prompt": "prompt", "gold": "gold"},
        template="auto",
        samples=1000,
        seed=0,
        layers="paper",
        readout="token",
        attribution=AttributionMethod("adaptive", None, "token", "reference"),
        attribution_samples=64,
        attribution_tokens=1024,
        attribution_memory=None,
        continuation=16,
        redundancy_neurons="auto",
        profile="default@2",
        fail=(),
        allow_unmeasured=(),
        allow_difference=(),
        calibrate=None,
        calibrate_rate=0.01,
        calibrate_directory="thresholds",
        baseline=None,
        update_baseline=False,
        cache=None,
        device="auto",
        max_memory=None,
        batch_size=16,
        shard_size=128,
        engine="local",
        engine_address=None,
        workers=None,
        gpus_per_worker=None,
        cpus_per_worker=None,
        worker_timeout=1800,
        report=None,
        controls=False,
        only=False,
        dry_run=False,
        trial=False,
        neurons=None,
        trust_remote_code=False,
        allow_pickle=False,
    )


def test_every_setting_has_one_option():
    """The table and the record name the same settings in the same order."""
    assert [option.field for option in OPTIONS] == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_help_is_one_sentence_with_the_default(option):
    """The help of every option ends with its default and a full stop."""
    default = "off" if option.kind == "flag" else option.default or "none"
    assert f"(default: {default}" in option.help
    assert option.help.endswith(").")
    assert "%" not in option.help  # argparse would expand it


# For each option: an ini line's value, a command line's value, and what each of them must become.
GIVEN = {
    "revision": ("v1", "v2", "v1", "v2"),
    "bits": ("8", "nf4,16", ("int8",), ("nf4", "bf16")),
    "candidate": ("one", "two@v2", (Released("one"),), (Released("two", "v2"),)),
    "dtype": ("16", "float32", "bf16", "fp32"),
    "prompts": ("a.csv", "b.csv", ("a.csv",), ("b.csv",)),
    "columns": (
        "prompt=q",
        "gold=a, prompt=the question",
        {"prompt": "q", "gold": "gold"},
        {"prompt": "the question", "gold": "a"},
    ),
    "template": ("chat", "raw", "chat", "raw"),
    "samples": ("10", "20", 10, 20),
    "seed": ("1", "2", 1, 2),
    "layers": ("all", "14,0", "all", (0, 14)),
    "readout": ("choices", "Substring", "choices", "substring"),
    "attribution": ("off", "nodes=8", AttributionMethod("off"), AttributionMethod("fixed", 8)),
    "attribution-tokens": ("512", "2048", 512, 2048),
    "max-memory": (
        "cpu:1GB",
        "cuda:1:2MiB,cpu:3kb",
        (("cpu", 10**9),),
        (("cuda:1", 2 * 2**20), ("cpu", 3000)),
    ),
    "attribution-memory": ("20GiB", "500 mb", 20 * 2**30, 500 * 10**6),
    "continuation": ("0", "32", 0, 32),
    "attribution-samples": ("1", "2", 1, 2),
    "redundancy-neurons": ("all", "2048", "all", 2048),
    "profile": ("strict@1", "mine.toml", "strict@1", "mine.toml"),
    "fail": ("ace_drift:0.5", "flip_rate:0", (("ace_drift", 0.5),), (("flip_rate", 0.0),)),
    "allow-unmeasured": ("ace_drift", "flip_rate", ("ace_drift",), ("flip_rate",)),
    "allow-difference": (
        "config.eos_token_id",
        "generation_config.json",
        ("config.eos_token_id",),
        ("generation_config.json",),
    ),
    "calibrate": ("mine", "mine@2", "mine", "mine@2"),
    "calibrate-rate": ("0.1", "5e-2", 0.1, 0.05),
    "calibrate-directory": ("one", "two", "one", "two"),
    "baseline": ("one", "two", "one", "two"),
    "cache": ("one", "two", "one", "two"),
    "device": ("cpu", "cuda:1", "cpu", "cuda:1"),
    "batch-size": ("1", "2", 1, 2),
    "shard-size": ("1", "2", 1, 2),
    "engine": ("ray", "Local", "ray", "local"),
    "engine-address": ("auto", "host:6379", "auto", "host:6379"),
    "workers": ("1", "2", 1, 2),
    "gpus-per-worker": ("0.5", "2", 0.5, 2.0),
    "cpus-per-worker": ("1", "2", 1, 2),
    "worker-timeout": ("60", "600", 60, 600),
    "report": ("one", "two", "one", "two"),
    "neurons": ("*.a", "*.b", "*.a", "*.b"),
}
OF_WORKERS = ["engine_address", "workers", "gpus_per_worker", "cpus_per_worker"]
FLAGS = ["controls", "only", "dry-run", "trial", "trust-remote-code", "allow-pickle"]


def test_the_precedence_tests_cover_every_option():
    """No option can be added without its precedence being tested."""
    assert {*GIVEN, *FLAGS, "model", "update-baseline"} == {option.name for option in OPTIONS}


@pytest.mark.parametrize("name", GIVEN)
def test_command_line_goes_before_ini_before_default(read, name):
    """An ini line replaces the default, and the command line replaces the ini line."""
    in_ini, on_line, from_ini, from_line = GIVEN[name]
    field = name.replace("-", "_")
    ini = [f"quantcheck_{field} = {in_ini}", *["quantcheck_engine = ray"] * (field in OF_WORKERS)]
    assert getattr(read(ini=ini), field) == from_ini
    assert getattr(read(f"--quantcheck-{name}={on_line}", ini=ini), field) == from_line


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_set_by_either_and_unset_by_override(read, name):
    """A flag is on by its option or its ini line; pytest's `-o` turns an ini line off again."""
    field = name.replace("-", "_")
    ini = [f"quantcheck_{field} = true"]
    assert getattr(read(f"--quantcheck-{name}"), field) is True
    assert getattr(read(ini=ini), field) is True
    assert getattr(read("-o", f"quantcheck_{field}=false", ini=ini), field) is False


def test_repeatable_options_keep_their_order(read):
    """Options that may be repeated gather in the order given, on the command line and in the ini file."""
    assert read("--quantcheck-prompts=b.csv", "--quantcheck-prompts=a.csv").prompts == ("b.csv", "a.csv")
    assert read(ini=["quantcheck_fail =", "  ace_drift:0.1", "  flip_rate:0.2"]).fail == (
        ("ace_drift", 0.1),
        ("flip_rate", 0.2),
    )


def test_without_a_model_there_are_no_settings(read):
    """No model means no gate, whatever else is set, even to nonsense."""
    assert read("--quantcheck-bits=5", ini=["quantcheck_samples = 1"], model=None) is None


def test_a_model_in_the_ini_file_is_a_model(read):
    """The model can be named in the ini file, and taken back with `-o`."""
    ini = ["quantcheck_model = builtin"]
    assert read(ini=ini, model=None).model == "builtin"
    assert read("-o", "quantcheck_model=", ini=ini, model=None) is None


@pytest.mark.parametrize("flag", ["--quantcheck-only", "--quantcheck-dry-run", "--quantcheck-calibrate"])
def test_flags_that_need_a_model_say_so(read, flag):
    """A run that would silently gate nothing is refused."""
    value = "=mine" if flag.endswith("calibrate") else ""
    with pytest.raises(SettingsError, match=f"{flag} needs a model: add --quantcheck-model"):
        read(f"{flag}{value}", model=None)


def test_candidates_take_the_place_of_bit_widths(read):
    """A released checkpoint given alone is gated alone; bit-widths that are asked for are gated beside it."""
    assert read("--quantcheck-candidate=out/small").bits == ()
    beside = read("--quantcheck-candidate=out/small", "--quantcheck-bits=4", "--quantcheck-candidate=b")
    assert (beside.bits, beside.candidate) == (("nf4",), (Released("out/small"), Released("b")))
    assert read("--quantcheck-candidate=out/small", ini=["quantcheck_bits = 8"]).bits == ("int8",)


def test_baseline_stands_for_the_model(read):
    """A candidate and a baseline are enough; a baseline alone starts nothing."""
    found = read("--quantcheck-candidate=out/small", "--quantcheck-baseline=stored", model=None)
    assert (found.model, found.bits, found.baseline) == (None, (), "stored")
    assert read("--quantcheck-baseline=stored", model=None) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quantcheck-candidate=a"], "--quantcheck-candidate needs a reference: add --quantcheck-model=MODEL, or "),
        (["--quantcheck-update-baseline"], "--quantcheck-update-baseline needs a model: add --quantcheck-model=MODEL"),
        *(
            (
                ["--quantcheck-candidate=a", "--quantcheck-baseline=b", flag],
                f"{flag.partition('=')[0]} needs the reference",
            )
            for flag in ("--quantcheck-bits=8", "--quantcheck-controls", "--quantcheck-update-baseline")
        ),
    ],
)
def test_what_needs_the_reference_says_so(read, arguments, message):
    """Where neither a model nor its stored measurement is named, or a stored one does not do."""
    with pytest.raises(SettingsError, match=message):
        read(*arguments, model=None)


def test_baseline_is_written_somewhere(read):
    """Without a directory there is nothing to update."""
    with pytest.raises(SettingsError, match="needs a place to write to: add --quantcheck-baseline=DIR"):
        read("--quantcheck-update-baseline")


def test_candidate_reads_back_its_own_spelling(tmp_path):
    """A revision follows the last `@`; a path that is there is taken whole."""
    for spelling in ("out/small", "example/model@v1", "a@b/c@d"):
        assert str(parse_candidate(spelling)) == spelling
    (tmp_path / "model@home").mkdir()
    assert parse_candidate(f"{tmp_path}/model@home") == Released(f"{tmp_path}/model@home")
    for wrong in ("@v1", "model@", " "):
        with pytest.raises(ValueError, match="expected"):
            parse_candidate(wrong)


def test_candidates_have_names_of_their_own():
    """The last part of the path; the last two where that is a bit-width's or another's."""
    named = name_candidates(
        map(parse_candidate, ["out/small", "a/model", "b/model", "out/int8", "example/large@v1", "x.gguf"])
    )
    assert list(named) == ["small", "a-model", "b-model", "out-int8", "large", "x.gguf"]
    assert list(name_candidates([Released("we ird/na:me[1]")])) == ["na-me-1"]
    for one, other in (("x/a/model", "y/a/model"), ("same", "same")):
        with pytest.raises(SettingsError, match=f"{one} and {other} would both be called"):
            name_candidates([Released(one), Released(other)])


def test_template_escapes_become_characters(read):
    """A shell's literal backslash-n and backslash-t are newline and tab."""
    assert read(r"--quantcheck-template=Q:\t{prompt}\nA:").template == "Q:\t{prompt}\nA:"


BAD = [
    ("model=", "expected a value, got nothing"),
    ("bits=5", "expected one of bf16, .* got '5'"),
    ("bits=", "expected one of bf16, .* got ''"),
    ("bits=nf5", "Did you mean 'nf4'"),
    ("bits=8,int8", "each bit-width once, .* int8 twice"),
    ("dtype=int8", "expected one of auto, bf16, fp16, fp32.* got 'int8'"),
    ("columns=", "expected NAME=COLUMN, such as prompt=question,gold=answer, got ''"),
    ("columns=prompt=", "expected NAME=COLUMN, .* got 'prompt='"),
    ("columns=question", "expected NAME=COLUMN, .* got 'question'"),
    ("columns=golds=answer", "expected prompt or gold before a column's name, got 'golds'. Did you mean 'gold'"),
    ("columns=prompt=a,prompt=b", "expected prompt once, got it twice in 'prompt=a,prompt=b'"),
    ("columns=prompt=a,gold=a", "expected two columns, got 'a' for both prompt and gold"),
    ("columns=prompt=gold", "expected two columns, got 'gold' for both prompt and gold"),
    ("template=", "expected auto, chat, raw or a format"),
    ("samples=9", "at least 10 .*ten bins|at least 10 .*ten calibration bins.* got '9'"),
    ("samples=all", "expected a whole number of at least 10"),
    ("samples=1_0", r"at least 10 .* got '1_0'. Did you mean 10\?$"),
    ("samples=1,000", r"at least 10 .* got '1,000'. Did you mean 1000\?$"),
    ("samples=1_", "at least 10 .* got '1_'$"),
    ("seed=1234567890123456789", "got '1234567890123456789'; at most 18 digits are read$"),
    ("layers=1_0", "expected paper, all or block numbers .* got '1_0'"),
    ("seed=-1", "at least 0, got '-1'"),
    ("layers=first", "expected paper, all or block numbers .* got 'first'"),
    ("layers=0,-1", "block numbers counted from 0"),
    ("layers=1,1", "each layer once"),
    ("readout=tokens", "expected one of token, choices, substring.* Did you mean 'token'"),
    ("attribution=adaptve", "Did you mean 'adaptive'"),
    ("attribution=nodes=0", "expected adaptive, paper, off.* got 'nodes=0'"),
    ("attribution=baseline=one", "got 'baseline=one'"),
    ("attribution=paper,adaptive", "says its method twice"),
    ("attribution=paper,nodes=8", "says its method twice"),
    ("attribution=off,target=own", "'off' takes nothing beside it"),
    ("attribution-samples=0", "--quantcheck-attribution=off"),
    ("redundancy-neurons=255", "expected auto, all or a whole number of at least 256, got '255'"),
    ("redundancy-neurons=most", "expected auto, all or .* got 'most'"),
    ("fail=ace_drift", "expected METRIC:VALUE, such as"),
    ("fail=ace_drift:much", "expected a number after ace_drift:, got 'much'"),
    ("fail=ace_drit:1", "Did you mean 'ace_drift'"),
    ("fail=ace_drift:nan", r"finite limit of at least 0 and at most 0.999 \(it is never above 1\) .* got nan"),
    ("fail=ace_drift:1e999", "finite limit .* got inf"),
    ("fail=ace_drift:-0.1", "limit of at least 0 .* got -0.1"),
    ("fail=salient_overlap:1.5", "at most 1"),
    ("fail=salient_overlap:0", "at least 0.001 and at most 1 .* got 0"),
    ("fail=salient_overlap:1e-320", "at least 0.001 and at most 1 .* got 1e-320"),
    ("fail=kl_divergence:1e308", r"at least 0 and at most 10 .* for kl_divergence, got 1e\+308$"),
    ("fail=kl_divergence:100", r"at most 10 \(a model that only guesses.* for kl_divergence, got 100.0$"),
    ("fail=flip_rate:5%", r"expected a number after flip_rate:, got '5%'. Did you mean 0.05\?$"),
    ("fail=flip_rate:2,5 %", r"got '2,5 %'. Did you mean 0.025\?$"),
    ("fail=flip_rate:0,05", r"got '0,05'. Did you mean 0.05\?$"),
    ("fail=flip_rate:0.0_5", r"got '0.0_5'. Did you mean 0.05\?$"),
    ("fail=flip_rate:500%", "expected a number after flip_rate:, got '500%'$"),
    ("fail=flip_rate:5", r"at least 0 and at most 0.999 .* for flip_rate, got 5.0. Did you mean 0.05\?"),
    ("fail=flip_rate:1", r"at most 0.999 .* got 1.0. Did you mean 0.01\?"),
    ("fail=redundancy_change:2", "at most 1.999 .* got 2.0"),
    ("allow-difference=eos_token_id", r"expected a field of config, .*, such as generation_.*, got 'eos_token_id'"),
    ("allow-difference=config.rms_norm_eps", "got 'config.rms_norm_eps', which decides what it computes and cannot"),
    ("allow-unmeasured=salient", r"expected a metric \(salient_overlap, .*\), got 'salient'"),
    ("device=gpu", "expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ("calibrate=", "expected NAME or NAME@VERSION, such as strict .* got ''"),
    ("calibrate=../mine", "expected NAME or NAME@VERSION, .* got '../mine'"),
    ("calibrate=a/b@1", "expected NAME or NAME@VERSION, .* got 'a/b@1'"),
    ("calibrate=mine@0", "expected NAME or NAME@VERSION, .* got 'mine@0'"),
    ("calibrate-rate=0", "expected a rate above 0 and at most 0.5, .* got '0'"),
    ("calibrate-rate=0.6", "expected a rate above 0 and at most 0.5, .* got '0.6'"),
    ("calibrate-rate=nan", "expected a rate above 0 and at most 0.5, .* got 'nan'"),
    ("calibrate-rate=1%", r"expected a rate .* got '1%'. Did you mean 0.01\?$"),
    ("calibrate-rate=0.0_1", r"expected a rate .* got '0.0_1'. Did you mean 0.01\?$"),
    ("calibrate-rate=60%", "expected a rate .* got '60%'$"),
    ("calibrate-rate=few", "expected a rate above 0 and at most 0.5, .* got 'few'"),
    ("calibrate-directory=tox.ini", "expected a directory, got the file"),
    ("batch-size=0", "at least 1, got '0'"),
    ("report=tox.ini", "expected a directory, got the file"),
]


@pytest.mark.parametrize(("argument", "message"), BAD, ids=[argument for argument, _ in BAD])
def test_bad_values_are_refused_by_name(read, argument, message):
    """Each bad value gets a sentence that begins with its option and says what was expected and what came."""
    name = argument.partition("=")[0]
    with pytest.raises(SettingsError, match=f"^--quantcheck-{name}: .*(?:{message})"):
        read(f"--quantcheck-{argument}", model=None if name == "model" else "builtin")


def test_bad_ini_values_are_refused_by_their_place(read):
    """A bad value in the ini file is blamed on the ini file, not on the command line."""
    with pytest.raises(SettingsError, match=r"^quantcheck_bits in .*tox.ini: expected one of"):
        read(ini=["quantcheck_bits = 5"])
    with pytest.raises(SettingsError, match=r"^quantcheck_only in .*tox.ini: .*'perhaps'"):
        read(ini=["quantcheck_only = perhaps"])


@pytest.mark.parametrize(("dtype", "bits"), [("bf16", "bf16"), ("16", "8,16"), ("float32", "fp32,4")])
def test_a_candidate_equal_to_the_reference_is_refused(read, dtype, bits):
    """A candidate of the reference's own precision is no candidate, however the two are spelled."""
    with pytest.raises(SettingsError, match="equal to the reference"):
        read(f"--quantcheck-dtype={dtype}", f"--quantcheck-bits={bits}")


@pytest.mark.parametrize("argument", ["--quantcheck-fail=ace_drift:0.1", "--quantcheck-prompts=a.csv"])
def test_saying_the_same_twice_is_refused(read, argument):
    """Two limits for one metric, or one prompt set named twice, would leave open which is meant."""
    with pytest.raises(SettingsError, match="once, got it twice"):
        read(argument, argument)


@given(
    st.builds(AttributionMethod, st.just("adaptive"), st.none(), st.sampled_from(["token", "zero"]))
    | st.builds(AttributionMethod, st.just("fixed"), st.integers(1, 999), target=st.sampled_from(["reference", "own"]))
    | st.builds(AttributionMethod, st.just("paper"), st.just(50), target=st.sampled_from(["reference", "own"]))
    | st.just(AttributionMethod("off"))
)
def test_attribution_reads_back_its_own_spelling(attribution):
    """The canonical spelling of an attribution stands for that attribution."""
    assert parse_attribution(str(attribution)) == attribution


def test_options_load_no_library():
    """Importing the options loads no library but pytest, so that every start of pytest stays fast."""
    code = (
        "import sys; import pytest_quantcheck.options; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'msgspec', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ARABIC = {ord("0") + digit: 0x660 + digit for digit in range(10)}
"""To the digits that Python's int() and float() read as well, and that look like others."""


@pytest.mark.parametrize(
    "value",
    [
        "samples=12",
        "seed=1",
        "batch-size=4",
        "attribution-samples=4",
        "attribution-tokens=4",
        "continuation=4",
        "attribution-memory=4GB",
        "max-memory=cpu:4GB",
        "layers=0",
        "redundancy-neurons=256",
        "attribution=nodes=8",
        "fail=ace_drift:0.05",
        "calibrate-rate=0.1",
        "calibrate=mine@1",
        "device=cuda:1",
    ],
)
def test_digits_are_0_to_9(read, value):
    """Every number of every option in other digits is refused by name; in these it is read."""
    read(f"--quantcheck-{value}")
    name, _, number = value.translate(ARABIC).partition("=")
    with pytest.raises(SettingsError, match=f"^--quantcheck-{name}: expected") as error:
        read(f"--quantcheck-{name}={number}")
    assert number.rpartition(":")[2] in str(error.value)


def test_number_of_many_digits(read):
    """It is refused as any other, without a word of Python's own limit."""
    for name in ("layers", "samples", "redundancy-neurons", "fail=ace_drift:1.1."):
        with pytest.raises(
            SettingsError, match=r"expected .* got '.{98,100}$|expected .* got '.{98,100}; at most 18"
        ) as error:
            read(f"--quantcheck-{name}{'' if ':' in name else '='}{'9' * 5000}")
        assert "limit for integer string conversion" not in str(error.value)


@pytest.mark.parametrize("field", OF_WORKERS)
def test_what_only_workers_have_needs_an_engine_with_workers(read, field):
    """A run that was meant to be divided is not done by one process without a word."""
    flag, value = f"--quantcheck-{field.replace('_', '-')}", "auto" if field == "engine_address" else "1"
    with pytest.raises(SettingsError, match=f"{flag} is for workers.*add --quantcheck-engine=ray"):
        read(f"{flag}={value}")


@pytest.mark.parametrize("address", ["node1", "ray://node1:10001", "node1:port", ":6379", "node1:65536"])
def test_address_is_a_host_and_a_port(read, address):
    """Of the cluster's head node; nothing is asked yet."""
    with pytest.raises(SettingsError, match="--quantcheck-engine-address: expected auto, or HOST:PORT"):
        read("--quantcheck-engine=ray", f"--quantcheck-engine-address={address}")


@pytest.mark.parametrize("gpus", ["-1", "1.5", "nan", "inf", "half"])
def test_gpus_are_whole_or_a_share_of_one(read, gpus):
    """Ray gives a worker whole GPUs, or lets it share one."""
    with pytest.raises(SettingsError, match="--quantcheck-gpus-per-worker: expected a whole number of GPUs"):
        read("--quantcheck-engine=ray", f"--quantcheck-gpus-per-worker={gpus}")


def test_trial_and_workers_do_not_go_together(read):
    """A trial would time another machine than the run's."""
    with pytest.raises(SettingsError, match=r"--quantcheck-trial measures in this process.*leave one out"):
        read("--quantcheck-trial", "--quantcheck-engine=ray")
