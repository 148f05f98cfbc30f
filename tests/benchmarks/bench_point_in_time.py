"""100,000 labels × 11 million rows: our point-in-time join beside Feast with DuckDB, each in a process of its own, one after another.

CPU seconds are compared: wall time swings with whatever else the machine does. Both must find the same values.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.offline.asof import AsOfSource, point_in_time_join
from tests.benchmarks.peers import ROOT, feast
from tests.benchmarks.report import Goal, record
from tests.benchmarks.vitals import FOLDER, LABORATORY, VITAL_SIGNS, made

# What four engines find in this data.
_SUMS = [7_989_624.5, 2_000_524.0]
_RUNS = 2
_FEATURES = {"vitals": VITAL_SIGNS, "labs": LABORATORY}


def main() -> None:
    """Run both sides, or with an argument our own: compacted or appended."""
    if len(sys.argv) > 1:
        print(json.dumps(_join(sys.argv[1])))
        return
    made()
    # In turn, so that both sides see the same machine; of each the run that used the least CPU.
    runs: dict[str, list[dict[str, Any]]] = {"compacted": [], "appended": [], "feast": []}
    for _ in range(_RUNS):
        for kind in ("compacted", "appended"):
            runs[kind].append(_child(kind))
        runs["feast"] += feast("feast_point_in_time.py", str(FOLDER))
    compacted, appended, peer = (min(found, key=lambda run: float(run["cpu"])) for found in runs.values())
    print("sums of heart_rate and crp: ours", compacted["sums"], "as appended", appended["sums"], "Feast", peer["sums"], flush=True)
    if not compacted["sums"] == appended["sums"] == peer["sums"] == _SUMS:
        raise RuntimeError(f"the joins differ; {_SUMS} were expected")
    remark = (
        f"compacted table; wall {compacted['wall']:.2f} s, Feast {peer['wall']:.1f} s and {peer['peak_gib']:.1f} GiB; "
        f"sums equal: {_SUMS[0]}, {_SUMS[1]}"
    )
    goal = Goal("CPU ratio >= 25 (later 40)", least=25, of_ratio=True)
    record("point_in_time", ours=compacted["cpu"], peer=peer["cpu"], unit="CPU s", goal=goal, smaller_is_better=True, remark=remark)
    remark = f"the same table as the materialiser left it, {appended['files']} files; wall {appended['wall']:.2f} s"
    goal = Goal("none of its own")
    record("point_in_time_appended", ours=appended["cpu"], peer=peer["cpu"], unit="CPU s", goal=goal, smaller_is_better=True, remark=remark)
    most = max(compacted["peak_gib"], appended["peak_gib"])
    record("point_in_time_memory", ours=most, peer=peer["peak_gib"], unit="GiB", goal=Goal("<= 1.5 GiB", most=1.5), smaller_is_better=True)


def _child(kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_point_in_time", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _join(kind: str) -> dict[str, Any]:
    data = made()
    versions = {name: None if kind == "compacted" else data.appended[name] for name in _FEATURES}
    sources = [AsOfSource(data.tables[name].files(versions[name]), data.tables[name].group, _FEATURES[name]) for name in _FEATURES]
    labels = pq.read_table(data.labels)
    wall, cpu = time.perf_counter(), time.process_time()
    found = point_in_time_join(labels, sources, "event_time").read_all()
    used = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    # Not ru_maxrss: that begins with what the process was before it became this program.
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20  # type: ignore[index]  # always there
    sums = [round(pc.sum(found[column].cast("double")).as_py(), 1) for column in ("heart_rate", "crp")]
    return {**used, "peak_gib": peak, "rows": found.num_rows, "sums": sums, "files": sum(len(source.files) for source in sources)}


if __name__ == "__main__":
    main()
