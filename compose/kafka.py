"""One Apache Kafka broker, KRaft, every listener with mutual TLS: its files and commands."""

import base64
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from wardstream.processes import write_private

_MEMBER_RULE = r"RULE:^CN=([a-z][a-z0-9-]*__[a-z][a-z0-9_-]*),OU=member,O=wardstream$/$1/"
_PLATFORM_RULE = r"RULE:^CN=(ws-[a-z0-9-]+),OU=platform,O=wardstream$/$1/"


def server_properties(home: Path, ports: Mapping[str, int]) -> str:
    """Return the configuration of the broker of the stack in `home`.

    Each kind of listener trusts one intermediate and has one anchored rule, none of them with DEFAULT. What is not
    said for a listener by name is the platform's, so that a listener added later opens to nobody else.
    """
    names = {"CLIENT": "kafka-client", "WORKER": "kafka-worker", "INTERNAL": "kafka-internal", "CONTROLLER": "kafka-controller"}
    listeners = ",".join(f"{name}://127.0.0.1:{ports[port]}" for name, port in names.items())
    pki = home / "pki"
    values = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{ports['kafka-controller']}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": listeners,
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": ",".join(f"{name}:SSL" for name in names),
        # The three lines that a connection is let in by, and who it is then.
        "ssl.client.auth": "required",
        "ssl.truststore.location": str(pki / "platform.pem"),
        "ssl.principal.mapping.rules": _PLATFORM_RULE,
        "listener.name.client.ssl.truststore.type": "PEM",
        "listener.name.client.ssl.truststore.location": str(pki / "outside.pem"),
        "listener.name.client.ssl.principal.mapping.rules": _MEMBER_RULE,
        "listener.name.worker.ssl.truststore.type": "PEM",
        "listener.name.worker.ssl.truststore.location": str(pki / "inside.pem"),
        "listener.name.worker.ssl.principal.mapping.rules": _MEMBER_RULE,
        "ssl.truststore.type": "PEM",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pki / "platform" / "ws-broker-1.pem"),
        "ssl.endpoint.identification.algorithm": "https",
        "ssl.enabled.protocols": "TLSv1.3",
        # Bounds a fetch that was parked before its principal's rights went: a parked fetch is an idle connection.
        "connections.max.idle.ms": "5000",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ws-broker-1;User:ws-control",
        "auto.create.topics.enable": "false",
        # One broker: no replicas to wait for, few partitions to open, no pause before a group's first assignment.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        # A killed worker's partitions go to its successor within 10 s, not 45.
        "group.consumer.min.session.timeout.ms": "6000",
        "group.consumer.session.timeout.ms": "10000",
        "group.consumer.min.heartbeat.interval.ms": "1000",
        "group.consumer.heartbeat.interval.ms": "2000",
        # A killed broker is not let in again before its last session ended: 9 s by default. A pause of the whole process
        # stops broker and controller alike, so a shorter session costs a single broker nothing.
        "broker.session.timeout.ms": "6000",
        "broker.heartbeat.interval.ms": "1500",
        # 128 MB of heap by default.
        "log.cleaner.dedupe.buffer.size": "8388608",
        "log.dirs": str(home / "kafka" / "data"),
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in values.items())


def _escaped(value: str) -> str:
    """Return `value` as a properties file says it: Java reads Latin-1 and takes a backslash for the beginning of an escape."""
    return re.sub(r"[^ -~]", _units, value.replace("\\", "\\\\"))


def _units(found: re.Match[str]) -> str:
    # java.util.Properties: one escape for each 16-bit unit, so two for a character beyond the first 65,536.
    return "".join(f"\\u{unit:04x}" for unit in memoryview(found[0].encode("utf-16-le", "surrogatepass")).cast("H"))


# The keys and the order of `wardstream.telemetry`, with its names for the levels.
_LINE = (
    """{"time":"%d{yyyy-MM-dd'T'HH:mm:ss.SSSxxx}{UTC}","level":"%p{WARN=WARNING,FATAL=CRITICAL,TRACE=DEBUG}","process":"kafka","""
    """"logger":"%enc{%c}{JSON}","message":"%enc{%m}{JSON}"%notEmpty{,"exception":"%enc{%ex}{JSON}"}}%n"""
)


def log4j2_properties(logs: Path) -> str:
    """Return the broker's logging: warnings to its standard output, decisions of the authorizer to a file of their own.

    One JSON object a line, as our own processes write. Redis alone keeps lines of its own: it knows no other.
    """
    authorizer = _escaped(str(logs / "kafka-authorizer.log"))
    return f"""\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern={_LINE}
appender.authorizer.type=RollingFile
appender.authorizer.name=authorizer
appender.authorizer.fileName={authorizer}
appender.authorizer.filePattern={authorizer}.%i
appender.authorizer.filter.own.type=RegexFilter
appender.authorizer.filter.own.regex=^Principal = User:ws-[a-z0-9-]+ is Allowed operation = (?!(ALTER|ALTER_CONFIGS|CREATE|DELETE) ).*
appender.authorizer.filter.own.onMatch=DENY
appender.authorizer.filter.own.onMismatch=NEUTRAL
appender.authorizer.layout.type=PatternLayout
appender.authorizer.layout.pattern={_LINE}
appender.authorizer.policies.type=Policies
appender.authorizer.policies.size.type=SizeBasedTriggeringPolicy
appender.authorizer.policies.size.size=20MB
appender.authorizer.strategy.type=DefaultRolloverStrategy
appender.authorizer.strategy.max=8
logger.authorizer.name=kafka.authorizer.logger
# What is allowed too: the audit counts it by principal, resource and minute. Of the platform's own only refusals and what changes
# the cluster, so that a change made by hand can be told from control's.
logger.authorizer.level=DEBUG
logger.authorizer.additivity=false
logger.authorizer.appenderRef.authorizer.ref=authorizer
"""


def write_files(home: Path, ports: Mapping[str, int]) -> None:
    """Write the broker's configuration and, once, the identity of its cluster."""
    folder = home / "kafka"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / "server.properties", server_properties(home, ports))
    write_private(folder / "log4j2.properties", log4j2_properties(home / "logs"))
    if not (folder / "cluster.id").exists():
        write_private(folder / "cluster.id", new_cluster_id() + "\n")


def new_cluster_id() -> str:
    """Return 16 random bytes as Kafka writes them; the tools take one that begins with '-' for an option."""
    while (identity := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return identity


def is_formatted(home: Path) -> bool:
    """Return whether the broker's data folder has been prepared, which is done once in its life."""
    return (home / "kafka" / "data" / "meta.properties").exists()


def format_command(home: Path, jars: Path, java: Path) -> list[str]:
    """Return the command that prepares the data folder; harmless when it died half-way and runs again."""
    identity = (home / "kafka" / "cluster.id").read_text(encoding="utf-8").strip()
    # Quick compilation only: this tool lives for less than a second.
    archive = class_archive(jars, java)
    archived = [f"-XX:SharedArchiveFile={archive}", "-Xlog:cds*=error"] if archive.exists() else []
    tool = [
        str(java),
        *archived,
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={home / 'kafka' / 'log4j2.properties'}",
    ]
    arguments = ["format", "-t", identity, "-c", str(home / "kafka" / "server.properties"), "--standalone", "--ignore-formatted"]
    return [*tool, "-cp", f"{jars / 'kafka'}/*", "kafka.tools.StorageTool", *arguments]


def class_archive(jars: Path, java: Path) -> Path:
    """Return where this Java keeps the broker's classes as it loads them: a third off the processor time of a start.

    Its name holds what it was made of, so that another Java or other jars never meet it. Nothing depends on it.
    """
    release = java.resolve().parent.parent / "release"
    made_of = [str(java.resolve()), release.read_text(encoding="utf-8") if release.exists() else ""]
    made_of += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted((jars / "kafka").glob("*.jar"))]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    return jars / f"kafka-classes-{digest}.jsa"


def new_class_archive(home: Path) -> Path:
    """Return where a broker leaves its classes when it ends, if they are not archived yet."""
    return home / "kafka" / "classes.jsa"


def keep_class_archive(home: Path, jars: Path, java: Path) -> None:
    """Put what a broker left where the next one looks for it. The broker must have ended by itself: else it may be torn."""
    made, kept = new_class_archive(home), class_archive(jars, java)
    if not made.exists():
        return
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        if not kept.exists():
            shutil.copyfile(made, temporary)
            temporary.replace(kept)
    except OSError:
        # A folder that this user may not write to, or a full disk: starts are slower, nothing else.
        temporary.unlink(missing_ok=True)
    made.unlink()


def run_command(home: Path, jars: Path, java: Path) -> list[str]:
    """Return the command that runs the broker."""
    archive = class_archive(jars, java)
    archived = f"-XX:SharedArchiveFile={archive}" if archive.exists() else f"-XX:ArchiveClassesAtExit={new_class_archive(home)}"
    return [
        str(java),
        archived,
        # What it says about single classes that cannot be archived.
        "-Xlog:cds*=error",
        "-Xms256m",
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        # Java seals the broker's key in its memory with 10,000 rounds at each of a dozen uses, 2 s of processor time in a start,
        # with a password that lies beside it; on disk the key is in a file for its owner alone.
        "-Dkeystore.pkcs12.keyPbeIterationCount=1",
        "-Djava.awt.headless=true",
        f"-Dkafka.logs.dir={home / 'logs'}",
        f"-Dlog4j2.configurationFile={home / 'kafka' / 'log4j2.properties'}",
        "-cp",
        f"{jars / 'kafka'}/*",
        "kafka.Kafka",
        str(home / "kafka" / "server.properties"),
    ]
