"""Every defect of a release is refused or measured, and no healthy release is."""

import pytest

from tests.studies.file_defects import DEFECTS
from tests.studies.release import Gated
from tests.studies.release_defects import Study, available, every_defect, outcome

QUICK = ("--samples", "64", "--attribution-samples", "8")
CHAT = "chat:Answer with one word.\n{prompt}\nAnswer:"
BY_NAME = {one.name: one for one in every_defect()}
REFUSED = {
    "two sets of weights",
    "a shard beside",
    "another prefix",
    "a tensor too many",
    "a tensor missing",
    "a tensor misshapen",
    "end of an answer",
    "tokenizer's end",
    "no generation settings",
    "rotary base",
    "norm",
    "activation function",
    "context",
    "sliding window",
    "hidden word",
    "chat template",
}
"""What is found in the files, before anything is measured."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The built-in model with its baseline."""
    return Study(tmp_path_factory.mktemp("study") / "study", "builtin", "bf16", QUICK)


def test_an_error_is_a_refusal_and_no_number_is_measured():
    """Without a verdict there is an error; that of the logits comes from a measurement."""
    healthy = Gated(0, 0, 0, None, ())
    assert outcome(Gated(1, 0, 0, None, ("the files lack one tensor",)), healthy) == "refused"
    assert outcome(Gated(1, 0, 0, None, ("all logits are NaN or infinite",)), healthy) == "measured (no number)"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "release", "expected"),
    [
        ("healthy", "int8", "passes"),
        ("healthy", "Q8_0", "passes"),
        ("two sets of weights", "int8", "refused"),
        ("scales of a layer", "int8", "measured"),
        ("rotary base", "int8", "refused"),
        ("rotary base", "Q8_0", "refused"),
        ("swapped-layers", "Q8_0", "measured"),
        ("no generation settings", "Q8_0", "-"),
        ("a tensor missing", "Q8_0", "refused"),
    ],
)
def test_defect_in_a_format(study, name, release, expected):
    """As files on disk, by a pytest of its own; a GGUF file has no generation settings."""
    found, gated = study.play(BY_NAME[name], release)
    assert found.partition(" (")[0] == expected, gated


@pytest.mark.slow
def test_every_defect_in_every_format(study):
    """The table of `docs/evidence/release-defects.md`: what is in the files is refused, in whichever format."""
    for defect in DEFECTS:
        for name in available():
            found, gated = study.play(defect, name)
            word = found.partition(" (")[0]
            assert word in {"refused", "-"} if defect.name in REFUSED else word != "missed", (defect.name, name, gated)


@pytest.fixture(scope="module")
def real_study(smollm2_file, tmp_path_factory):
    """The 135M model with its baseline on the built-in prompts."""
    folder = tmp_path_factory.mktemp("study") / "study"
    return Study(folder, str(smollm2_file), "bf16", (*QUICK, "--template", CHAT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "Q8_0"])
@pytest.mark.parametrize("defect", every_defect(), ids=lambda one: one.name)
def test_every_defect_of_a_real_model(real_study, defect, name):
    """The healthy release passes; of the others each that the format can carry is refused or measured."""
    found, gated = real_study.play(defect, name)
    word = found.partition(" (")[0]
    assert word in ({"passes"} if defect.name == "healthy" else {"refused", "measured", "-"}), gated
