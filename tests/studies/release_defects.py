"""Every defect that a release can have, as files on disk in each format, gated from the command line.

    python -m tests.studies.release_defects --model MODEL --folder FOLDER [--formats F …] [--defects D …] …

MODEL is a dense Llama: a directory, a GGUF file or builtin. Its baseline is measured once. Each defect is made of the
plain checkpoint before it is quantized (weights, configuration), or of the files that were released; a format that
cannot carry it is left out. What is printed is Markdown: whether each directory is refused before it is measured,
caught by what it does, or missed. "As healthy": what stands against it stands against the healthy release too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pytest_quantcheck.commands.parser import parser as measuring_parser
from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts
from tests.file_changes import change, hide_a_word, stop_at, without
from tests.models.gguf_files import spell_builtin, write_gguf
from tests.models.releases import PACKAGES, RELEASES, write
from tests.studies.release import Gated, Release

WEIGHTS, INDEX, TEMPLATE = "model.safetensors", "model.safetensors.index.json", "chat_template.jinja"
GGUF = ("Q8_0", "Q4_0")
FORMATS = (*RELEASES, *GGUF)


class Defect(NamedTuple):
    """One defect; `before` changes the plain checkpoint that is quantized, `after` the released files.

    A format that cannot carry it has no such file, or the same content with it as without, or NotApplicable is raised.
    """

    name: str
    summary: str
    before: Callable[[Path], object] | None = None
    after: Callable[[Path], object] | None = None


def _rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"]
    change("config.json", rope_parameters=rope | {"rope_theta": rope["rope_theta"] / 10})(folder)


def _half_the_context(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change("config.json", max_position_embeddings=config["max_position_embeddings"] // 2)(folder)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a release in one file of safetensors; FileNotFoundError of a GGUF file."""
    return load_file(folder / WEIGHTS)


def _rewrite(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = WEIGHTS) -> None:
    """Write tensors with what the release's own file says of them: torchao keeps their kinds there."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(dict(tensors), folder / name, metadata=metadata)


def _two_sets(folder: Path) -> None:
    """An index that leads to a shard of other content, beside the healthy single file."""
    tensors = tensors_of(folder)
    name = next(name for name in tensors if "layers.1." in name and tensors[name].is_floating_point())
    _rewrite(folder, tensors | {name: tensors[name] * 3}, "model-00001-of-00001.safetensors")
    places = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _unnamed_shard(folder: Path) -> None:
    """A shard beside, which no index names: with other numbers for a tensor."""
    tensors = tensors_of(folder)
    name = next(name for name in tensors if "layers.1." in name and tensors[name].is_floating_point())
    _rewrite(folder, {name: tensors[name] * 3}, "model-00002-of-00002.safetensors")


def _other_prefix(folder: Path) -> None:
    _rewrite(folder, {f"base_model.{name}": tensor for name, tensor in tensors_of(folder).items()})


def _leftover(folder: Path) -> None:
    _rewrite(folder, tensors_of(folder) | {"model.layers.1.mlp.up_proj.output_scale": torch.ones(1)})


def _one(tensors: Mapping[str, torch.Tensor]) -> str:
    """The largest tensor of one up projection."""
    return max((name for name in tensors if "layers.1.mlp.up_proj" in name), key=lambda name: tensors[name].nbytes)


def _missing(folder: Path) -> None:
    tensors = tensors_of(folder)
    del tensors[_one(tensors)]
    _rewrite(folder, tensors)


def _misshapen(folder: Path) -> None:
    tensors = tensors_of(folder)
    name = _one(tensors)
    _rewrite(folder, tensors | {name: tensors[name][:-1].clone()})


def _scaled(pattern: Sequence[str], factor: float, where: str = "") -> Callable[[Path], None]:
    """Multiply the tensors whose names end so and are float."""

    def do(folder: Path) -> None:
        tensors = tensors_of(folder)
        names = [name for name in tensors if name.endswith(tuple(pattern)) and where in name]
        names = [name for name in names if tensors[name].is_floating_point() and tensors[name].itemsize > 1]
        if not names:
            raise NotApplicable(f"no {pattern[0]}")
        _rewrite(folder, tensors | {name: (tensors[name] * factor).to(tensors[name].dtype) for name in names})

    return do


def _activation_scales(folder: Path) -> None:
    """Static ones; a release of fp8 without any gets them, with its configuration."""
    config = json.loads((folder / "config.json").read_text())
    if config["quantization_config"].get("quant_method") != "fp8":
        _scaled(("input_scale",), 1 / 64)(folder)
        return
    config["quantization_config"]["activation_scheme"] = "static"
    (folder / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(folder)
    layers = [name.removesuffix("weight_scale_inv") for name in tensors if name.endswith("weight_scale_inv")]
    _rewrite(folder, tensors | {f"{layer}activation_scale": torch.full((1,), 1 / 64) for layer in layers})


def _shifted(folder: Path) -> None:
    """Each group's scale is its neighbour's, in every layer."""
    tensors = tensors_of(folder)
    names = [name for name in tensors if name.endswith(("weight_scale", "weight_scale_inv")) and "proj" in name]
    names = [name for name in names if tensors[name].ndim == 2 and tensors[name].shape[1] > 1]
    if not names:
        raise NotApplicable("no scales by group")
    shifted = {}
    for name in names:
        codes = tensors[name].view(torch.uint8) if tensors[name].itemsize == 1 else tensors[name]
        shifted[name] = codes.roll(1, dims=1).view(tensors[name].dtype)
    _rewrite(folder, tensors | shifted)


def _zero_points(folder: Path) -> None:
    """As if the codes were symmetric."""
    tensors = tensors_of(folder)
    names = [name for name in tensors if name.endswith("weight_zero_point") and tensors[name].ndim > 1]
    if not names or all(not tensors[name].any() for name in names):
        raise NotApplicable("no zero points")
    middle = {torch.int32: -0x77777778, torch.int8: 0}  # eight codes of 8 in an int32, as compressed-tensors packs them
    _rewrite(folder, tensors | {name: torch.full_like(tensors[name], middle[tensors[name].dtype]) for name in names})


def _control(name: str, plain: Path) -> None:
    """Do a control's damage to a plain checkpoint."""
    new = plain.with_name(f"{plain.name}-new")
    with load(Source(str(plain), device="cpu")) as loaded:
        apply_control(loaded, name, plan=Plan(samples=64), prompts=read_prompts("builtin", samples=64))
        model: Any = loaded.model
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        model.config.tie_word_embeddings = head.weight is embedding.weight
        model.save_pretrained(new)
    for path in new.iterdir():
        path.replace(plain / path.name)
    new.rmdir()


_SCALES = ("SCB", "_weight_scale", "weight_scale", "weight_scale_inv", "scales")

DEFECTS = (
    Defect("healthy", "nothing"),
    Defect("two sets of weights", "an index leads to other weights than `model.safetensors`", after=_two_sets),
    Defect("a shard beside", "a shard with other numbers that no index names", after=_unnamed_shard),
    Defect("another prefix", "every tensor's name begins with `base_model.`", after=_other_prefix),
    Defect("a tensor too many", "a scale of outputs that nothing applies", after=_leftover),
    Defect("a tensor missing", "one weight, or its codes", after=_missing),
    Defect("a tensor misshapen", "one row less", after=_misshapen),
    Defect("activation scales", "every static scale of activations divided by 64", after=_activation_scales),
    Defect("scales of a layer", "those of one layer times 1.5", after=_scaled(_SCALES, 1.5, ".layers.1.")),
    Defect("shifted scales", "each group's scale is its neighbour's", after=_shifted),
    Defect("zero points", "left out of every layer", after=_zero_points),
    Defect("end of an answer", "another token, in both configurations", before=stop_at(7)),
    Defect(
        "tokenizer's end",
        "another token ends a text",
        before=change("tokenizer_config.json", eos_token="<unk>"),
    ),
    Defect("no generation settings", "`generation_config.json` is missing", after=without("generation_config.json")),
    Defect("rotary base", "`rope_theta` a tenth", before=_rope),
    Defect("norm", "`rms_norm_eps` 0.1", before=change("config.json", rms_norm_eps=0.1)),
    Defect("activation function", "`hidden_act` gelu", before=change("config.json", hidden_act="gelu")),
    Defect("context", "`max_position_embeddings` a half", before=_half_the_context),
    Defect("hidden word", "a word of the vocabulary is a special token", before=hide_a_word),
    Defect("chat template", "another one", before=lambda folder: (folder / TEMPLATE).write_text("{{ messages }}")),
)
"""Those of files and configuration; of weights there are the controls."""


def every_defect() -> tuple[Defect, ...]:
    """Those of files and configuration, then the controls' of weights."""
    controls = (control for control in CONTROLS.values() if control.kind == "defect")
    weights = (
        Defect(one.name, one.summary.partition(",")[0].rstrip("."), partial(_control, one.name)) for one in controls
    )
    return (*DEFECTS, *weights)


class Study:
    """A reference with its baseline, and releases of it."""

    def __init__(self, folder: Path, model: str, dtype: str, options: Sequence[str]) -> None:
        self.release = Release(folder, tuple(options))
        if model == "builtin":  # with a tokenizer that a GGUF file can hold
            spell_builtin(self.release.reference)
        else:
            self.release.unpack(model, dtype)
        self.release.measure()
        self._healthy: dict[str, tuple[Path, Gated]] = {}

    def healthy(self, name: str) -> tuple[Path, Gated]:
        """The release in a format that nobody damaged, and what a gate says of it."""
        if name not in self._healthy:
            path = write_release(self.release.reference, self._place("healthy", name), name)
            self._healthy[name] = path, self.release.gate(path, baseline=True)
        return self._healthy[name]

    def play(self, defect: Defect, name: str) -> tuple[str, Gated | None]:
        """Make a defect in a format and gate it: in a word what a gate makes of it, and all that it said."""
        original, healthy = self.healthy(name)
        if defect.before is None and defect.after is None:
            return ("passes" if not against(healthy) else f"not fit ({len(against(healthy))})"), healthy
        place = self._place(defect.name.replace(" ", "-"), name)
        try:
            path = self._make(defect, name, original, place)
            gated = self.release.gate(path, baseline=True)
        except (NotApplicable, FileNotFoundError, NotADirectoryError):
            return "-", None
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return outcome(gated, healthy), gated

    def _make(self, defect: Defect, name: str, original: Path, place: Path) -> Path:
        if defect.before is not None:
            plain = shutil.copytree(self.release.reference, place / "plain")
            defect.before(plain)
            path = write_release(plain, place / "release", name)
        else:
            place.mkdir(parents=True)
            copy = shutil.copytree if original.is_dir() else shutil.copy
            path = Path(copy(original, place / f"release{original.suffix}"))
        if defect.after is not None:
            defect.after(path)
        if contents(path) == contents(original):
            raise NotApplicable("the files are the same")
        return path

    def _place(self, defect: str, name: str) -> Path:
        return self.release.folder / "releases" / f"{defect}-{name}"


def write_release(plain: Path, place: Path, name: str) -> Path:
    """Quantize a plain checkpoint: a directory, or a GGUF file."""
    place.mkdir(parents=True)
    if name in GGUF:
        return write_gguf(plain, place / "model.gguf", name)
    write(RELEASES[name], plain, place)
    return place


def contents(path: Path) -> dict[str, str]:
    """The hash of each file of a release, by name; a GGUF file's name does not count."""
    if path.is_file():
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def against(gated: Gated) -> set[str]:
    """The metrics that stand against a release."""
    return {one.metric for one in gated.report.verdicts if not one.acceptable} if gated.report else set()


def outcome(gated: Gated, healthy: Gated) -> str:
    """In a word: refused, measured, missed, or as the healthy release."""
    if gated.report is None or not gated.report.verdicts:
        return "measured (no number)" if any("NaN or infinite" in error for error in gated.errors) else "refused"
    found = against(gated)
    if found and found != against(healthy):
        return f"measured ({len(found)})"
    return f"as healthy ({len(found)})" if found else "missed"


def available() -> list[str]:
    """The formats whose packages are installed."""
    needed = {name: PACKAGES.get(release.name.partition(" ")[0]) for name, release in RELEASES.items()}
    return [name for name in FORMATS if needed.get(name) is None or importlib.util.find_spec(str(needed[name]))]


def table(study: Study, chosen: Sequence[Defect], formats: Sequence[str]) -> Iterator[str]:
    """Yield a row for each defect, then what was refused in which words, then the numbers of all outcomes."""
    yield f"| defect | what | {' | '.join(formats)} |"
    yield f"|{' --- |' * (len(formats) + 2)}"
    words: list[str] = []
    outcomes: Counter[str] = Counter()
    for defect in chosen:
        played = {name: study.play(defect, name) for name in formats}
        yield f"| {defect.name} | {defect.summary} | {' | '.join(cell for cell, _ in played.values())} |"
        outcomes.update(cell.partition(" (")[0] for cell, _ in played.values())
        refused = [(name, one) for name, (cell, one) in played.items() if cell == "refused" and one is not None]
        words += [f"- {defect.name}, {name}, exit status {one.status}: {one.errors[0]}" for name, one in refused[:1]]
    yield from ("", *words, "", ", ".join(f"{word}: {number}" for word, number in outcomes.most_common()))


def parse(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: our own options, and those that measuring and gating share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="directory, .gguf file or builtin")
    parser.add_argument("--folder", required=True, type=Path, help="where everything is written; must not exist")
    parser.add_argument("--dtype", default="bf16", help="precision into which a GGUF file is unpacked")
    parser.add_argument("--formats", nargs="*", default=available(), choices=FORMATS)
    parser.add_argument("--defects", nargs="*", choices=[one.name for one in every_defect()])
    asked, options = parser.parse_known_args(words)
    measuring_parser().parse_args(["measure", *options])  # a misspelled one is seen before anything is measured
    return asked, options


def main() -> None:
    """Play every defect in every format and print what a gate makes of it."""
    asked, options = parse()
    asked.folder.mkdir(parents=True)
    study = Study(asked.folder.resolve(), asked.model, asked.dtype, options)
    chosen = [one for one in every_defect() if not asked.defects or one.name in asked.defects]
    for line in table(study, chosen, asked.formats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
