"""`make demo`: starts a platform of its own in build/demo, tells the story, writes build/demo/report.html.

The platform stays up afterwards, so that the printed commands work. Exit code 1 when any of the demo's checks fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.schema_registry import SchemaRegistryError
from rich.console import Console

from examples.demo.people import Platform
from examples.demo.report import Findings, write
from examples.demo.story import DemoFailed, Scale, Story
from wardstream.errors import WardstreamError

_ROOT = Path(__file__).resolve().parent.parent.parent
_FOLDER = _ROOT / "build" / "demo"
_LAUNCHER = [sys.executable, "-m", "compose.main"]


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer records and a shorter training")
    parser.add_argument("--down", action="store_true", help="stop the demo's platform and end")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    home = _FOLDER / "platform"
    if arguments.down:
        return _launch("down", home)
    begun = time.monotonic()
    opened = ExitStack()
    try:
        platform = _start(console, home)
        opened.push(platform.opened)
        scale = Scale(ecg_seconds=120, ppg_seconds=60, every_nth_patient=4, reads=600, epochs=5) if arguments.quick else Scale()
        story = Story(platform, _ROOT / ".data", scale)
        for title, step in (
            ("Two hospitals' studies", story.enrol),
            ("Bedside waveforms", story.bedside),
            ("Intensive-care patients", story.patients),
            ("Sequencer", story.sequencer),
            ("A data scientist's SQL", story.explore),
            ("Death within 30 days: a model", story.train),
            ("The walls", story.walls),
            ("Malformed records", story.malformed),
            ("A member is removed", story.removal),
            ("Reconciliation", story.reconcile),
        ):
            _tell(console, title, step)
            for remark in story.found.remarks:
                console.print("\n".join(f"      {line}" for line in remark.splitlines()), markup=False, style="dim", soft_wrap=True)
            story.found.remarks.clear()
    except KeyboardInterrupt:
        console.print(f"\nInterrupted; what runs goes on: {_command('down', home)} stops it", markup=False)
        return 130
    except (DemoFailed, WardstreamError, KafkaException, SchemaRegistryError, subprocess.CalledProcessError) as error:
        console.print(f"\nThe demo failed: {error}", markup=False, style="bold red")
        console.print(f"Logs: {home / 'logs'}; the platform is still up: {_command('status', home)}", markup=False)
        return 1
    finally:
        opened.close()
    seconds = time.monotonic() - begun
    report = _FOLDER / "report.html"
    write(_findings(story, seconds), report)
    _walls(console, story)
    _table(console, story)
    _farewell(console, platform, home, report, seconds)
    return 0


def _start(console: Console, home: Path) -> Platform:
    """Start a fresh platform: what an earlier demo left goes, so that every figure is this run's."""
    if home.exists():
        if _launch("down", home, quiet=True) != 0:
            raise DemoFailed(f"the platform of an earlier demo does not stop: {_command('down', home)} says why")
        shutil.rmtree(_FOLDER)
    begun = time.monotonic()
    if _launch("up", home) != 0:
        raise DemoFailed("the platform did not start; the lines above say why")
    console.print(f"✓ the platform is up ({time.monotonic() - begun:.1f} s)")
    found = json.loads(_answer("env", home, "--output", "json"))
    return Platform(
        url=found["WARDSTREAM_URL"],
        outside_url=found["WARDSTREAM_OUTSIDE_URL"],
        bootstrap_servers=found["KAFKA_BOOTSTRAP_SERVERS"],
        ca=Path(found["WARDSTREAM_CA"]),
        admin_key_file=Path(found["WARDSTREAM_API_KEY_FILE"]),
        credentials=_FOLDER / "credentials",
    )


def _tell(console: Console, title: str, step: Callable[[], str]) -> None:
    begun = time.monotonic()
    if not console.is_terminal:
        console.print(f"… {title}", markup=False)
    with console.status(f"{title} …"):
        outcome = step()
    console.print(f"✓ {title} ({time.monotonic() - begun:.1f} s)", style="bold", markup=False)
    console.print(f"    {outcome}", markup=False, soft_wrap=True)


def _findings(story: Story, seconds: float) -> Findings:
    found = story.found
    if found.strip is None:
        raise DemoFailed("the ECG was not replayed")
    return Findings(
        made_at=datetime.now(UTC),
        seconds=seconds,
        strip=found.strip,
        heart_rate=found.heart_rate,
        read_lengths=found.read_lengths,
        read_windows=found.read_windows,
        model=found.model,
        walls=found.walls,
        removal=found.removal,
        dead_letters=found.dead_letters,
        reconciliation=found.reconciliation,
    )


def _walls(console: Console, story: Story) -> None:
    console.print("\nFrom virology into icu-west:", style="bold", soft_wrap=True)
    for wall in story.found.walls:
        console.print(f"  {wall.attempt:<45} {'nothing' if wall.refused else 'LEAKED':<8} {wall.answer[:90]}", markup=False, soft_wrap=True)
    console.print("\nDead letters of ecg-bed1:", style="bold", soft_wrap=True)
    for letter in story.found.dead_letters:
        console.print(f"  {letter['sent']:<45} {letter['reason'][:100]}", markup=False, soft_wrap=True)


def _table(console: Console, story: Story) -> None:
    console.print("\nrecords = rows + repeats + deletions + dead letters:", style="bold", soft_wrap=True)
    console.print(f"  {'feature group':<26}{'records':>9}{'rows':>9}{'repeats':>9}{'deleted':>9}{'dead':>6}{'difference':>12}  online")
    for row in story.found.reconciliation:
        name = f"{row['project']}.{row['group']}_{row['version']}"
        numbers = (
            f"{row['records']:>9}{row['rows']:>9}{row['repeats']:>9}{row['deletions']:>9}{row['dead_letters']:>6}{row['difference']:>12}"
        )
        console.print(f"  {name:<26}{numbers}  {'equal' if row['online_equal'] else 'DIFFERS'}", markup=False, soft_wrap=True)


def _farewell(console: Console, platform: Platform, home: Path, report: Path, seconds: float) -> None:
    key = (platform.credentials / "icu-west-ida.key").relative_to(_ROOT)
    console.print(f"\nDone in {seconds:.0f} s. The report: {report.relative_to(_ROOT)}", style="bold", markup=False)
    console.print("The platform is still up. Look around as ida, who owns icu-west:", markup=False)
    for line in (
        f'eval "$({_command("env", home)})"; export WARDSTREAM_API_KEY_FILE={key}',
        ".venv/bin/wardstream project describe",
        ".venv/bin/wardstream sql 'SELECT disease, count(*) AS patients FROM icu_day1 GROUP BY disease ORDER BY patients DESC'",
        ".venv/bin/wardstream online-read ecg_10s ecg-bed1",
        ".venv/bin/wardstream processor list",
        ".venv/bin/wardstream feature-group reconcile",
        ".venv/bin/wardstream audit list --limit 10",
        f"{_command('down', home)}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _command(verb: str, home: Path) -> str:
    return f".venv/bin/wardstream-server {verb} --home {home.relative_to(_ROOT)}"


def _launch(verb: str, home: Path, *, quiet: bool = False) -> int:
    return subprocess.run(
        [*_LAUNCHER, verb, "--home", str(home)], check=False, stdout=subprocess.DEVNULL if quiet else None, cwd=_ROOT
    ).returncode


def _answer(verb: str, home: Path, *options: str) -> str:
    return subprocess.run([*_LAUNCHER, verb, "--home", str(home), *options], check=True, capture_output=True, text=True, cwd=_ROOT).stdout


if __name__ == "__main__":
    sys.exit(main())
