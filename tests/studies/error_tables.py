"""Print what `error_rates.py` measured, judged by a profile.

    python tests/studies/error_tables.py FILE... [--profile NAME@VERSION] [--picture FILE.svg]

False alarms of the nulls with Clopper-Pearson intervals, what was caught of every defect and by which metrics, and,
with `--picture`, the same as a picture. With `--leave-one-out` limits are derived from each model and prompt set
alone and judged on the others. `--values` prints what every metric read of every case and size instead.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from scipy.stats import binomtest

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.judging import judge
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Profile, load_profile, read_profile
from pytest_quantcheck.profiles.calibrating import draft_profile
from tests.studies.error_rates import Line

ACCURACY = 0.05
"""Limit of a gate that has nothing else."""

RATE = 0.01
"""False alarms that limits derived from one model may give."""


def read(files: Iterable[Path]) -> list[Line]:
    """All lines of some files."""
    return [msgspec.json.decode(raw, type=Line) for file in files for raw in file.read_bytes().splitlines()]


def failing(line: Line, profile: Profile) -> frozenset[str]:
    """The metrics that do not accept this comparison."""
    verdicts = (judge(line.comparison, metric, profile) for metric in profile.metrics)
    return frozenset(verdict.metric for verdict in verdicts if verdict and not verdict.acceptable)


def accuracy(line: Line) -> float:
    """The accuracy drop of one comparison."""
    (estimate,) = line.comparison.of("accuracy_drop")
    assert estimate.value is not None
    return estimate.value


def share(count: int, of: int) -> str:
    """A share with its 95 % Clopper-Pearson interval, in percent."""
    interval = binomtest(count, of).proportion_ci(0.95)
    return f"{count}/{of} ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)"


def grouped(lines: Iterable[Line], *keys: str) -> dict[tuple[object, ...], list[Line]]:
    """Lines by some of their fields, in the order in which they come."""
    groups: dict[tuple[object, ...], list[Line]] = defaultdict(list)
    for line in lines:
        groups[tuple(getattr(line, key) for key in keys)].append(line)
    return groups


def values(lines: Iterable[Line]) -> Iterable[str]:
    """For each case and size: each metric's worst reading over samples and layers, and the least accuracy drop."""
    titles = " | ".join(metric.title for metric in METRICS.values())
    yield f"| model, prompts | case | grade | n | {titles} | least accuracy drop |"
    yield "|" + "---|" * (len(METRICS) + 5)
    for (model, prompts, case, grade, n), group in grouped(lines, "model", "prompts", "control", "grade", "n").items():
        cells = [f"{worst(group, metric):.4f}" for metric in METRICS]
        least = min(accuracy(line) for line in group)
        yield f"| {model}, {prompts} | {case} | {grade or ''} | {n} | {' | '.join(cells)} | {least:.4f} |"


def worst(lines: Iterable[Line], metric: str) -> float:
    """The value furthest on the failing side; NaN where there is none."""
    found = [e.value for line in lines for e in line.comparison.of(metric) if e.applicable and e.value is not None]
    return (max if METRICS[metric].direction == "max" else min)(found, default=math.nan)


def false_alarms(lines: Sequence[Line], profile: Profile) -> Iterable[str]:
    """For each model, prompt set and size: how often what is harmless fails, by metric and as a whole."""
    names = [METRICS[name].title for name in profile.metrics]
    yield f"| model, prompts | n | gate | {' | '.join(names)} |"
    yield "|" + "---|" * (len(names) + 3)
    for (model, prompts, n), group in grouped(lines, "model", "prompts", "n").items():
        found = [failing(line, profile) for line in group]
        cells = [sum(name in failed for failed in found) for name in profile.metrics]
        whole = share(sum(map(bool, found)), len(found))
        yield f"| {model}, {prompts} | {n} | {whole} | {' | '.join(map(str, cells))} |"


def power(lines: Sequence[Line], profile: Profile) -> Iterable[str]:
    """For each control and grade: what is caught at each size, by which metrics at the largest, by accuracy alone."""
    sizes = sorted({line.n for line in lines})
    yield f"| control | grade | {' | '.join(f'caught at {n}' for n in sizes)} | by (at {sizes[-1]}) | accuracy alone |"
    yield "|" + "---|" * (len(sizes) + 4)
    for (control, grade), group in grouped(lines, "control", "grade").items():
        found = {n: [failing(line, profile) for line in group if line.n == n] for n in sizes}
        caught = [f"{sum(map(bool, f))}/{len(f)}" if f else "-" for f in found.values()]
        last = found[sizes[-1]]
        by = [METRICS[name].title for name in profile.metrics if sum(name in failed for failed in last) * 2 > len(last)]
        alone = sum(accuracy(line) > ACCURACY for line in group if line.n == sizes[-1])
        yield f"| {control} | {grade or ''} | {' | '.join(caught)} | {', '.join(by) or 'none'} | {alone}/{len(last)} |"


def derived(lines: Sequence[Line]) -> Profile:
    """The profile that one model and prompt set give.

    It rests on the first draws of the nulls, and of the defects as severe as a certificate has them, on as many prompts
    as those were measured on at most.
    """
    first = [line for line in lines if not line.draw]
    damaged = [line for line in first if line.kind == "defect" and line.grade == CONTROLS[line.control].severity]
    most = max(line.n for line in damaged)
    damaged = [line for line in damaged if line.n == most]
    nulls = [line for line in first if line.kind == "null" and line.n >= most]
    harmless = [line for line in nulls if line.n == min(line.n for line in nulls)]
    text = draft_profile(
        *([line.comparison for line in part] for part in (harmless, damaged)), name="derived", version=1, rate=RATE
    )
    return read_profile(text.encode(), "derived")


def leave_one_out(lines: Sequence[Line]) -> Iterable[str]:
    """Limits of one model and prompt set, judged on every other: false alarms, and defects caught in any sample."""
    yield "| limits from | judged on | false alarms | defects caught |\n|---|---|---|---|"
    sets = grouped(lines, "model", "prompts")
    able = [key for key, group in sets.items() if any(line.kind == "defect" for line in group)]
    for source in able:
        profile = derived(sets[source])
        for key, group in sets.items():
            if key != source:
                alarms = [bool(failing(line, profile)) for line in group if line.kind == "null"]
                defects = [line for line in group if line.kind == "defect"]
                severe = [line for line in defects if line.grade == CONTROLS[line.control].severity]
                caught = {line.control for line in severe if failing(line, profile)}
                of = len({line.control for line in severe})
                names = " on ".join(map(str, source)), " on ".join(map(str, key))
                yield f"| {names[0]} | {names[1]} | {share(sum(alarms), len(alarms))} | {len(caught)}/{of} |"
        limits = ", ".join(f"{rule.limit.metric} {rule.limit.value:g}" for rule in profile.rules)
        yield f"| | limits: {limits} | | |"


def picture(lines: Sequence[Line], profile: Profile, file: Path) -> None:
    """Share of samples in which each metric fails, defect by defect: one heat map for each model and prompt set."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "quantcheck"  # the same picture for the same numbers
    sets = grouped(lines, "model", "prompts")
    figure, axes = plt.subplots(1, len(sets), figsize=(6 * len(sets) + 2, 14), squeeze=False, layout="constrained")
    for axis, ((model, prompts), group) in zip(axes[0], sets.items(), strict=True):
        n = max(line.n for line in group)
        rows = grouped((line for line in group if line.n == n), "control", "grade")
        shares = []
        for several in rows.values():
            found = [failing(line, profile) for line in several]
            shares.append([sum(map(bool, found)) / len(found)])
            shares[-1] += [sum(name in failed for failed in found) / len(found) for name in profile.metrics]
        axis.imshow(shares, cmap="Reds", vmin=0, vmax=1, aspect="auto")
        titles = ["the gate", *(METRICS[name].title for name in profile.metrics)]
        axis.set_xticks(range(len(titles)), titles, rotation=60, ha="right")
        axis.set_yticks(range(len(rows)), [f"{control} {grade:g}" if grade else control for control, grade in rows])
        axis.set_title(f"{model}, {n} {prompts} prompts")
    figure.savefig(file, metadata={"Date": None})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--profile", default="default@2")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--values", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    """Print the tables."""
    asked = parse()
    profile, lines = load_profile(asked.profile), read(asked.files)
    if asked.values:
        print("\n".join(values(lines)))
        return
    print("\n".join(false_alarms([line for line in lines if line.kind == "null"], profile)))
    for (model, prompts), group in grouped((line for line in lines if line.kind != "null"), "model", "prompts").items():
        print(f"\n{model} on {prompts}\n")
        print("\n".join(power(group, profile)))
    if asked.leave_one_out:
        print("\n".join(["", *leave_one_out(lines)]))
    if asked.picture:
        picture([line for line in lines if line.kind != "null"], profile, asked.picture)


if __name__ == "__main__":
    main()
