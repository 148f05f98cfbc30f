from pathlib import Path

from streams.programs.launcher import UIDS
from streams.programs.sandbox import ways_out
from wardstream.confinement import Confinement, Limits, confined, package_folders


def pairs(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, part in enumerate(command) if part == option]


def test_root_drops_to_the_jobs_user_before_anything_of_the_job_runs() -> None:
    command = confined(["program"], Confinement(uid=60578, limits=Limits(memory_mb=100)))
    own = command[command.index("--") + 1 :]
    assert own[:5] == ["/usr/bin/setpriv", "--reuid", "60578", "--regid", "60578"]
    assert {"--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"} <= set(own)
    assert own[-1] == "program"
    assert "--unshare-user" not in command
    assert "--unshare-all" not in command


def test_ordinary_user_gets_a_user_namespace_and_no_capability() -> None:
    command = confined(["program"], Confinement())
    assert command[command.index("--unshare-all") : command.index("--unshare-all") + 7] == [
        "--unshare-all", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
    ]  # fmt: skip
    assert "/usr/bin/setpriv" not in command


def test_every_confinement_has_no_network_no_environment_and_bounds() -> None:
    for uid in (None, UIDS[0]):
        command = confined(["program"], Confinement(uid=uid, limits=Limits(memory_mb=7, processes=8, cpu_seconds=9, file_mb=10)))
        assert {"--clearenv", "--die-with-parent", "--new-session"} <= set(command)
        assert "--unshare-net" in command or "--unshare-all" in command
        assert {"--as=7340032", "--nproc=8", "--cpu=9", "--fsize=10485760", "--core=0"} <= set(command)
        assert pairs(command, "--remount-ro") == ["/dev", "/"]


def test_folders_on_the_way_to_a_bind_can_be_passed_by_the_job() -> None:
    command = confined(
        ["program"], Confinement(uid=UIDS[0], read_only=[(Path("/srv/a"), "/one/two/three")], writable=[(Path("/srv/b"), "/out")])
    )
    assert pairs(command, "--dir") == ["/one", "/one/two"]
    assert pairs(command, "--ro-bind") == ["/usr", "/srv/a"]
    assert pairs(command, "--bind") == ["/srv/b"]
    # Made before the binds: a bind would be hidden by what is made over it.
    assert command.index("--dir") < command.index("/srv/a")


def test_only_the_named_packages_are_bound() -> None:
    assert [Path(inside).name for _, inside in package_folders(["wardstream", "streams"])] in (["wardstream", "streams"], [])


def test_job_reaches_the_brokers_and_the_inside_door() -> None:
    assert ways_out("127.0.0.1:9094,127.0.0.1:9194", "https://127.0.0.1:8443") == [
        ("127.0.0.1", 9094),
        ("127.0.0.1", 9194),
        ("127.0.0.1", 8443),
    ]
