"""Every defect that a release can have, as files on disk in each format, gated from the command line.

    python -m tests.studies.release_defects --model MODEL --folder FOLDER [--shape S] [--formats F …] [--defects D …] …

MODEL is a dense Llama: a directory, a GGUF file or builtin. The reference is the model itself, or of another shape: a
Mistral with a sliding window, or a mixture of eight experts. Its baseline is measured once. Each defect is made of the
plain checkpoint before it is quantized (weights, configuration), or of the files that were released; a format that
cannot carry it is left out.

What is printed is Markdown: whether each directory is refused before it is measured, caught by what it does, or missed.
"As healthy": what stands against it stands against the healthy release too. "Warned": less than half of the weights of
the blocks are quantized, and the gate says so.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_quantcheck.commands.parser import parser as measuring_parser
from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import ModelError, NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts
from pytest_quantcheck.records import Verdict
from tests.file_changes import change
from tests.models.gguf_files import spell_builtin, write_gguf
from tests.models.releases import PACKAGES, RELEASES, write
from tests.studies.file_defects import DEFECTS, Defect
from tests.studies.release import Gated, Release
from tests.upcycled import upcycle

GGUF = ("Q8_0", "Q4_0")
FORMATS = (*RELEASES, *GGUF)
HARDLY = "warning: less than half of the weights"


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


def every_defect() -> tuple[Defect, ...]:
    """Those of files and configuration, then the controls' of weights."""
    controls = (control for control in CONTROLS.values() if control.kind == "defect")
    weights = (
        Defect(one.name, one.summary.partition(",")[0].rstrip("."), partial(_control, one.name)) for one in controls
    )
    return (*DEFECTS, *weights)


def _sliding(plain: Path) -> None:
    """Give a Llama a window that is shorter than its context; one with it is a Mistral."""
    shape = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 64}
    change("config.json", **shape)(plain)


def _mixture(plain: Path) -> None:
    """Make eight experts of each FFN, with a share of noise."""
    dense = plain.rename(plain.with_name("dense"))
    upcycle(dense, plain, experts=8, noise=0.3)


SHAPES: dict[str, Callable[[Path], object]] = {"llama": lambda _: None, "mistral": _sliding, "mixture": _mixture}


class Study:
    """A reference with its baseline, and releases of it; a mixture is judged by `preview@1`, which gates routers."""

    def __init__(self, folder: Path, model: str, dtype: str, options: Sequence[str], shape: str = "llama") -> None:
        judged = ("--profile", "preview@1") if shape == "mixture" else ()
        self.release = Release(folder, tuple(options), judged)
        if model == "builtin":  # with a tokenizer that a GGUF file can hold
            spell_builtin(self.release.reference)
        else:
            self.release.unpack(model, dtype)
        SHAPES[shape](self.release.reference)
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
        if not verdicts(healthy):
            raise ModelError(f"{name}: the release that nobody damaged cannot be gated: {' '.join(healthy.errors)}")
        if defect.before is None and defect.after is None:
            said = f"not fit ({len(against(healthy))})" if against(healthy) else "passes"
            return said + _warned(healthy), healthy
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


def verdicts(gated: Gated) -> tuple[Verdict, ...]:
    """All verdicts on a release; none if it was not measured."""
    return tuple(gated.report.verdicts) if gated.report else ()


def against(gated: Gated) -> set[str]:
    """The metrics that stand against a release."""
    return {one.metric for one in verdicts(gated) if not one.acceptable}


def outcome(gated: Gated, healthy: Gated) -> str:
    """In a word: refused, measured, missed, or as the healthy release."""
    if not verdicts(gated):
        return "measured (no number)" if any("NaN or infinite" in error for error in gated.errors) else "refused"
    found = against(gated)
    if found and found != against(healthy):
        return f"measured ({len(found)})"
    return f"as healthy ({len(found)})" if found else f"missed{_warned(gated)}"


def _warned(gated: Gated) -> str:
    notes = [note for one in gated.report.comparisons for note in one.notes] if gated.report else []
    return ", warned" if any(note.startswith(HARDLY) for note in notes) else ""


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
        outcomes.update(re.split(r" \(|, ", cell)[0] for cell, _ in played.values())
        refused = [(name, one) for name, (cell, one) in played.items() if cell == "refused" and one is not None]
        words += [f"- {defect.name}, {name}, exit status {one.status}: {one.errors[0]}" for name, one in refused[:1]]
    yield from ("", *words, "", ", ".join(f"{word}: {number}" for word, number in outcomes.most_common()))


def parse(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: our own options, and those that measuring and gating share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="directory, .gguf file or builtin")
    parser.add_argument("--folder", required=True, type=Path, help="where everything is written; must not exist")
    parser.add_argument("--dtype", default="bf16", help="precision into which a GGUF file is unpacked")
    parser.add_argument("--shape", default="llama", choices=SHAPES, help="what is made of the model; GGUF is of Llama")
    parser.add_argument("--formats", nargs="*", choices=FORMATS)
    parser.add_argument("--defects", nargs="*", choices=[one.name for one in every_defect()])
    asked, options = parser.parse_known_args(words)
    if asked.shape != "llama" and (files := set(asked.formats or ()) & set(GGUF)):
        parser.error(f"a GGUF file is of a llama: {', '.join(sorted(files))}")
    measuring_parser().parse_args(["measure", *options])  # a misspelled one is seen before anything is measured
    return asked, options


def main() -> None:
    """Play every defect in every format and print what a gate makes of it."""
    asked, options = parse()
    possible = [name for name in available() if asked.shape == "llama" or name not in GGUF]
    if absent := set(asked.formats or ()) - set(possible):
        raise SystemExit(f"the package is not installed that these formats need: {', '.join(sorted(absent))}")
    asked.folder.mkdir(parents=True)
    study = Study(asked.folder.resolve(), asked.model, asked.dtype, options, asked.shape)
    chosen = [one for one in every_defect() if not asked.defects or one.name in asked.defects]
    for line in table(study, chosen, asked.formats or possible):
        print(line, flush=True)


if __name__ == "__main__":
    main()
