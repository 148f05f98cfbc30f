"""Which port each part listens on: picked free at the first `up`, kept for the next."""

import json
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from wardstream.errors import Conflict, Invalid
from wardstream.processes import write_private

# What listens, in the order of the ports handed out.
LISTENERS = (
    "door",
    "outside",
    "inside",
    "gateway",
    "control",
    "query",
    "stream-worker",
    "program-worker",
    "kafka-client",
    "kafka-worker",
    "kafka-internal",
    "kafka-controller",
    "redis",
)

# Below the range from which Linux gives ports to outgoing connections (32768 and up): a port from there may be in use
# for a moment when the stack starts again. Neighbouring ports are easier to read than thirteen scattered ones.
_LOWEST, _HIGHEST, _BLOCK = 20_000, 32_000, 20
_TRIES = 200

Ports = Mapping[str, int]


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that are closing already are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick(free: Callable[[int], bool] = is_free, choose: random.Random | None = None) -> Ports:
    """Return a port for each listener, all free at this moment; raises `Conflict` where no room is found."""
    source = choose or random.SystemRandom()
    for _ in range(_TRIES):
        first = source.randrange(_LOWEST, _HIGHEST, _BLOCK)
        ports = {name: first + number for number, name in enumerate(LISTENERS)}
        if all(free(port) for port in ports.values()):
            return ports
    raise Conflict(f"no {len(LISTENERS)} free neighbouring ports between {_LOWEST} and {_HIGHEST}: too much runs on this machine")


def load(path: Path) -> Ports | None:
    """Return the ports kept at `path`, or None before the first `up`; raises `Invalid` for a file that is not one of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or set(found) != set(LISTENERS) or not all(_is_port(port) for port in found.values()):
        raise Invalid(f"{path.name} does not name one port for each of {', '.join(LISTENERS)}: run `wardstream-server up --repick`")
    return found


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def keep(path: Path, ports: Ports) -> None:
    """Write `ports` to `path`, whole or not at all."""
    write_private(path, json.dumps(dict(ports), indent=1) + "\n")


def taken(ports: Ports, names: Iterable[str], free: Callable[[int], bool] = is_free) -> dict[str, int]:
    """Return those of `names` whose port somebody listens on."""
    return {name: ports[name] for name in names if not free(ports[name])}
