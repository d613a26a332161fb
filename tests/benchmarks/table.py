"""Print a benchmark file as the table of docs/evidence/performance.md: `python tests/benchmarks/table.py FILE...`."""

import json
import sys
from pathlib import Path

HEAD = "| benchmark | size | ours | peer | peer takes | ratio | of the floor |\n|---|---|---|---|---|---|---|"
SIZES = ("d", "n_tokens", "n_prompts", "n_layers", "layer", "draws", "n_neurons", "dtype", "threads")


def rows(file):
    """One row for each benchmark and peer."""
    for benchmark in json.loads(file.read_text(encoding="utf-8"))["benchmarks"]:
        info = benchmark["extra_info"]
        if "ratio" not in info:
            continue
        theirs = info["peer_seconds"]
        for name, seconds in theirs.items() if isinstance(theirs, dict) else [(info["peer"], theirs)]:
            yield row(benchmark["name"], info, name, seconds)


def row(benchmark, info, peer, seconds):
    """Times in seconds, the ratio of the peer's to ours, and the share of our time that the floor is."""
    sizes = ", ".join(f"{name.removeprefix('n_')} {info[name]}" for name in SIZES if name in info)
    floor = f"{info['limit_fraction']:.0%}" if info.get("limit_fraction") else "-"
    scaled = f" (1 in {info['extrapolated']} of it, scaled)" if info.get("extrapolated", 1) > 1 else ""
    ours = info["seconds"]
    name = benchmark.removeprefix("test_").replace("_", " ")
    return f"| {name} | {sizes} | {ours:.3g} s | {peer}{scaled} | {seconds:.3g} s | {seconds / ours:.3g} | {floor} |"


if __name__ == "__main__":
    print(HEAD)
    for name in sys.argv[1:]:
        print("\n".join(rows(Path(name))))
