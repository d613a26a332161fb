"""What a hostile model directory cannot do: docs/explanation/safety.md names these tests."""

import json
import socket
import subprocess

import pytest
import torch

QUICK = (
    "--quantcheck-only",
    "--quantcheck-bits=8",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-attribution=off",
    "-k",
    "kl_divergence",
)


class Hostile:
    """Creates a file in the working directory when it is unpickled."""

    def __reduce__(self):
        return subprocess.check_call, (["touch", "the-code-ran"],)


@pytest.fixture
def no_network(monkeypatch):
    """Fails each connection and records it."""
    tried = []

    def refuse(_socket, address):
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tried


def ran(found):
    """Tell whether code of the model ran."""
    return (found.directory / "the-code-ran").exists()


@pytest.mark.parametrize("allowed", [(), ("--quantcheck-allow-pickle",)], ids=["default", "allowed"])
def test_pickled_code_does_not_run(gate, checkpoint, allowed):
    """Without the option nothing is unpickled; with it, transformers unpickles tensors alone."""
    (checkpoint / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Hostile()}, checkpoint / "pytorch_model.bin")
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK, *allowed)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "int8: could not be judged" in found.text
    assert not ran(found)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_does_not_run(gate, checkpoint, name):
    """Neither of its configuration nor of its tokenizer, unless --quantcheck-trust-remote-code allows it."""
    path = checkpoint / name
    classes = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    changes = {"auto_map": classes, "model_type": "own"} if name == "config.json" else {"auto_map": classes}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (checkpoint / "own.py").write_text("open('the-code-ran', 'w').close()\nclass Own: pass\n")
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK)
    assert not ran(found)
    assert "Traceback" not in found.text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch the-code-ran') }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
    ],
)
def test_chat_template_is_sandboxed(gate, checkpoint, template):
    """A template that reaches for Python or for files is an error of the model, in a sentence."""
    path = checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK, "--quantcheck-template=chat")
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "int8: could not be judged" in found.text
    assert "Traceback" not in found.text
    assert not ran(found)


@pytest.mark.parametrize("key", ["model_type", "torch_dtype"])
def test_control_characters_of_a_model_reach_no_terminal(gate, checkpoint, key):
    """An error that quotes a configuration shows them as escapes, in JUnit too."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": None, key: "\x1b[31mred\x07"}))
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK, "--junitxml=junit.xml")
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "int8: could not be judged" in found.text
    assert not {"\x1b", "\x07"} & set(found.text + (found.directory / "junit.xml").read_text())


def test_judging_local_files_needs_no_network(gate, checkpoint, no_network):
    """No connection is tried, also where HF_HUB_OFFLINE is not set."""
    assert gate(f"--quantcheck-model={checkpoint}", *QUICK).status == 0
    assert not no_network
