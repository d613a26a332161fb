"""A model that cannot be loaded or measured fails its items with a sentence: no pass, no traceback."""

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig

QUICK = ("--quantcheck-samples=12", "--quantcheck-bits=8", "--quantcheck-attribution=off")
TWO = ("quantcheck::test_kl_divergence", "quantcheck::test_ace_drift")


@pytest.fixture
def broken(gate, checkpoint):
    """Runs two packaged tests on the damaged checkpoint, demands that both fail, and gives their text."""

    def run(*arguments):
        found = gate(f"--quantcheck-model={checkpoint}", *QUICK, *TWO, *arguments)
        assert found.status == pytest.ExitCode.TESTS_FAILED
        assert "2 errors in" in found.lines[-1]
        assert "Traceback" not in found.text
        assert "INTERNALERROR" not in found.text
        assert not any(line.startswith(("E  ", "> ")) for line in found.lines)
        start = next(i for i, line in enumerate(found.lines) if f" {TWO[0]}[int8-builtin] " in line)
        return found.lines[start + 1]

    return run


def test_truncated_weights(broken, checkpoint):
    """A file that was cut off, as by an interrupted download."""
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{weights} is damaged: " in (said := broken())
    assert "Check that the files are complete and belong together." in said


def test_model_without_known_neurons(broken, checkpoint):
    """An architecture we do not know: its modules are named, and the option that points at the right ones."""
    config = BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=2)
    (checkpoint / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(checkpoint)
    assert "BloomForCausalLM: its FFN layout is not known" in (said := broken())
    assert "--quantcheck-neurons=" in said
    assert "transformer.h.0.mlp" in said


def test_weight_that_is_not_a_number(broken, checkpoint):
    """One NaN among the weights is found by what it does to the answers."""
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"][5, 7] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinite" in broken()


def test_model_on_no_hub(gate, monkeypatch):
    """A hub id that cannot be reached: what was asked for, and what to check."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = gate("--quantcheck-model=nobody/no-such-model", *QUICK, TWO[0])
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert any(line.startswith("nobody/no-such-model cannot be fetched: ") for line in found.lines)
    assert "Traceback" not in found.text
