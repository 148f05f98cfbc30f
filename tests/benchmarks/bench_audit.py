"""Audited decisions a second, each on the disk before it returns, and the time to check a million entries offline."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from tenancy.access import AccessEvent, AccessJournal
from tests.benchmarks.report import Goal, record
from wardstream.chain import check, hidden, read_lines
from wardstream.clock import SystemClock

_THREADS, _EACH = 32, 500
_MILLION = 1_000_000


def main() -> None:
    """Measure on a folder of this machine's disk; threads stand for requests that are answered at the same time."""
    with tempfile.TemporaryDirectory(prefix="ws-bench-") as folder:
        journal = AccessJournal(Path(folder), "bench", SystemClock())
        rate = max(_rate(journal) for _ in range(3))
        alone = _alone(journal)
        record(
            "audited_decisions",
            ours=rate,
            unit="decisions/s",
            goal=Goal(">= 5,000 decisions/s", least=5_000),
            remark=f"{_THREADS} at the same time, each durable before it returns; one after the other {alone:.0f}/s",
        )
        while journal.head.number < _MILLION:
            journal.record(*(_event(number) for number in range(1000)))
        begun = time.perf_counter()
        found = check(read_lines(journal.folder), [journal.head])
        seconds = time.perf_counter() - begun
        if not found.intact or found.entries < _MILLION:
            raise RuntimeError("the chain is not as it was written")
        begun = time.perf_counter()
        part = check((hidden(line) for line in read_lines(journal.folder)), [journal.head])
        if not part.intact:
            raise RuntimeError("the commitments do not make the chain")
        record(
            "audit_verify_million",
            ours=seconds / found.entries * _MILLION,
            unit="s",
            goal=Goal("< 5 s", most=5.0),
            remark=f"hidden and checked, as another project's part of an export: {time.perf_counter() - begun:.1f} s",
        )
        journal.close()


def _rate(journal: AccessJournal) -> float:
    def run() -> None:
        for number in range(_EACH):
            journal.record(_event(number))

    threads = [threading.Thread(target=run) for _ in range(_THREADS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _THREADS * _EACH / (time.perf_counter() - begun)


def _alone(journal: AccessJournal) -> float:
    begun = time.perf_counter()
    for number in range(_EACH):
        journal.record(_event(number))
    return _EACH / (time.perf_counter() - begun)


def _event(number: int) -> AccessEvent:
    return AccessEvent("icu__anna", "online", "online.read", "icu", "vitals_1", allowed=True, serial="ab" * 20, request=f"{number:016x}")


if __name__ == "__main__":
    main()
