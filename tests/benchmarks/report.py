"""One JSON file per benchmark under build/bench, and a table of all of them in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = _ROOT / "build" / "bench"
TABLE = _ROOT / "docs" / "benchmarks.md"
_PACKAGES = ("confluent-kafka", "deltalake", "duckdb", "polars", "pyarrow", "redis")


@dataclass(frozen=True)
class Goal:
    """What the figure, or its ratio to the peer's, must be; `text` is how people say it."""

    text: str
    least: float | None = None
    most: float | None = None
    of_ratio: bool = False

    def met(self, ours: float, ratio: float | None) -> bool:
        """Return whether the figure meets the goal; a goal of a ratio is not met without one."""
        value = ratio if self.of_ratio else ours
        if value is None:
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Result:
    """A file of build/bench."""

    benchmark: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    goal: str
    met: bool
    machine: str
    versions: dict[str, str]
    remark: str


def record(
    benchmark: str, *, ours: float, unit: str, goal: Goal, peer: float | None = None, smaller_is_better: bool = False, remark: str = ""
) -> Result:
    """Write the result, print it, and return it. The ratio says how many times better ours is than the peer's."""
    ratio = None
    if peer:
        ratio = peer / ours if smaller_is_better else ours / peer
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    machine = f"{os.cpu_count()} cores, {_memory_gib()} GiB, {platform.system()} {platform.release()} {platform.machine()}"
    result = Result(benchmark, ours, peer, unit, ratio, goal.text, goal.met(ours, ratio), machine, versions, remark)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{benchmark}.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
    against = f", {ratio:.1f}x the peer's {peer:,.4g}" if ratio is not None and peer is not None else ""
    print(f"{benchmark}: {ours:,.4g} {unit}{against}; goal {goal.text}: {'met' if result.met else 'MISSED'}. {remark}", flush=True)
    return result


def write_table() -> None:
    """Write docs/benchmarks.md from every file of build/bench."""
    results = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Ours and the peer's figure come from one run on one machine; compare ratios, not bare figures.",
        "",
        "| benchmark | ours | peer | unit | ratio | goal | met | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in results:
        peer = "–" if found["peer"] is None else f"{found['peer']:,.4g}"
        ratio = "–" if found["ratio"] is None else f"{found['ratio']:.1f}×"
        met = "yes" if found["met"] else "**no**"
        lines.append(
            f"| {found['benchmark']} | {found['ours']:,.4g} | {peer} | {found['unit']} | {ratio} | {found['goal']} | {met} | {found['remark']} |"
        )
    if results:
        lines += ["", f"Machine: {results[0]['machine']}."]
    TABLE.write_text("\n".join(lines) + "\n")


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
