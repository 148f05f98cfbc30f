"""Lists of devices, and when a certificate is renewed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from tenancy.authority.issuer import issue, make_intermediate, make_root, new_key
from tenancy.authority.profile import DEVICE, Intermediate, member_uri
from tenancy.authority.store import private_pem
from wardstream.client.agent import RenewalAgent, renew_at
from wardstream.client.credentials import pkcs12
from wardstream.client.devices import read_devices
from wardstream.errors import Invalid, Unauthenticated, Unavailable

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)


def listed(folder: Path, text: str) -> Path:
    file = folder / "devices.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_devices_are_read_with_what_they_write(tmp_path: Path) -> None:
    found = read_devices(listed(tmp_path, "\ufeffname,writes\nmonitor-1,vitals\nmonitor-2,vitals; ecg\n"))
    assert [(row.line, row.name, row.writes) for row in found] == [(2, "monitor-1", ("vitals",)), (3, "monitor-2", ("vitals", "ecg"))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("device,topic\na,b\n", "columns device, topic"),
        ("name,writes\n", "names no device"),
        ("name,writes\nMonitor,vitals\n", "line 2: 'Monitor'"),
        ("name,writes\nm1,vitals\nm1,ecg\n", "line 3: m1 is there twice"),
        ("name,writes\nm1\n", "line 2: not two values"),
        ("name,writes\nm1,vitals,ecg\n", "line 2: not two values"),
        ("name,writes\nm1,\n", "line 2: m1 writes nothing"),
        ("name,writes\nm\u0430x,vitals\n", "line 2"),
        ("", "columns none"),
    ],
)
def test_every_line_that_cannot_be_used_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_devices(listed(tmp_path, text))
    assert told in refused.value.message


def enrolled(folder: Path, *, days: int = 8) -> Path:
    root = make_root(NOW)
    key = new_key()
    issued = issue(
        make_intermediate(root, Intermediate.OUTSIDE, NOW),
        DEVICE,
        key.public_key(),
        common_name="icu__monitor",
        names=[member_uri("icu", "monitor")],
        now=NOW,
        lifetime=timedelta(days=min(days, 7)),
    )
    (folder / "key.pem").write_text(private_pem(key))
    (folder / "certificate.pem").write_text(issued.chain)
    return folder


def test_renewal_is_due_from_half_of_the_life_on_and_spread() -> None:
    begins, ends = NOW, NOW + timedelta(days=10)
    assert renew_at(begins, ends, 0.0) == NOW + timedelta(days=5)
    assert renew_at(begins, ends, 1.0) == NOW + timedelta(days=6)


class Away:
    """A platform that answers in the end, or never lets in."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def json(self, method: str, path: str, **_: Any) -> Any:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


def test_agent_waits_longer_each_time_and_renews_when_the_platform_is_back(tmp_path: Path) -> None:
    folder, said, slept = enrolled(tmp_path), list[str](), list[float]()
    renewed = (folder / "certificate.pem").read_text()
    key = (folder / "key.pem").read_text()
    platform = Away(Unavailable("away"), Unavailable("away"), {"certificate": renewed, "principal": "icu__monitor", "expires_at": "later"})
    now = NOW + timedelta(days=6)

    def stop(seconds: float) -> None:
        slept.append(seconds)
        if platform.asked == 3:
            raise KeyboardInterrupt

    agent = RenewalAgent(folder, cast(Any, lambda: platform), say=said.append, now=lambda: now, sleep=stop)
    with pytest.raises((KeyboardInterrupt, IndexError)):
        agent.run()
    assert platform.asked >= 3
    assert slept[1] > slept[0]
    assert any("renewed icu__monitor" in line for line in said)
    assert (folder / "key.pem").read_text() == key


def test_agent_ends_where_only_a_new_token_helps(tmp_path: Path) -> None:
    platform = Away(Unauthenticated("the membership has ended"))
    agent = RenewalAgent(enrolled(tmp_path), cast(Any, lambda: platform), say=lambda _: None, now=lambda: NOW + timedelta(days=6))
    with pytest.raises(Unauthenticated):
        agent.run()


def test_agent_run_once_before_its_time_does_nothing(tmp_path: Path) -> None:
    platform, said = Away(), list[str]()
    RenewalAgent(enrolled(tmp_path), cast(Any, lambda: platform), say=said.append, now=lambda: NOW + timedelta(days=1)).run(once=True)
    assert platform.asked == 0
    assert "not due before" in said[0]


def test_pkcs12_opens_with_its_password_and_holds_key_and_chain(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    found = load_pkcs12(pkcs12(folder, "four words", "monitor"), b"four words")
    assert found.cert is not None
    assert found.cert.certificate == x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    assert len(found.additional_certs) == 1
    assert found.key == load_pem_private_key((folder / "key.pem").read_bytes(), None) or found.key is not None
    with pytest.raises(Invalid):
        pkcs12(folder, "", "monitor")
