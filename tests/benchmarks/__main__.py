"""`make bench`: runs every benchmark, or those named, one after another, each in a process of its own.

Exit code 1 when one could not run; a missed goal is reported, not hidden, and does not fail the run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import report


def main() -> int:
    """Run the benchmarks and write the table."""
    known = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:] or known
    if unknown := [name for name in wanted if name not in known]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    if wanted == known:
        # The table then holds this run's figures alone.
        shutil.rmtree(report.FOLDER, ignore_errors=True)
    failed = []
    for name in wanted:
        print(f"— {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}"], check=False).returncode:
            failed.append(name)
    report.write_table()
    if failed:
        print(f"could not run: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
