"""Renewal and inventory of certificates on the real platform."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests.support.stack import Person, RunningStack
from wardstream.client.credentials import renew
from wardstream.errors import Denied, Unauthenticated
from wardstream.kafka import deliver, producer

pytestmark = pytest.mark.stack


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


def test_device_renews_by_its_certificate_and_both_write_until_the_old_one_ends(stack: RunningStack) -> None:
    project = stack.new_project("renew")
    topic = project.create_topic("vitals")
    device = project.add("monitor", "device", writes=["vitals"])
    device.produce(topic, [b"one"])
    open_since = producer(device.kafka())
    deliver(open_since, [(topic, None, b"two", [])], seconds=15)
    old, key = serial(device.certificate.certificate_file), device.certificate.key_file.read_text()
    made = renew(device.rest().transport, device.folder)
    assert serial(made.certificate_file) != old
    assert made.key_file.read_text() == key
    # An open connection goes on with the certificate that it began with; a new one begins with the new one.
    deliver(open_since, [(topic, None, b"three", [])], seconds=15)
    assert device.produce(topic, [b"four"]) == [(0, 3)]
    listed = [each for each in project.owner.project.certificates() if each["member"] == "monitor"]
    assert {int(each["serial"], 16) for each in listed} == {old, serial(made.certificate_file)}
    assert "PRIVATE" not in str(listed)
    project.owner.project.remove_member("monitor")
    with pytest.raises(Unauthenticated):
        renew(device.rest().transport, device.folder)


def test_only_a_certificate_renews_and_only_owners_see_the_inventory(stack: RunningStack) -> None:
    project = stack.new_project("renew")
    with pytest.raises(Denied, match="with the certificate itself"):
        project.owner.connection.transport.json("POST", "/api/v1/account/certificate", json={"csr": "x"})
    scientist = project.add("sam", "data-scientist")
    with pytest.raises(Denied):
        scientist.project.certificates()
    restricted = Person(stack, project.name, "rita", project.owner.project.add_member("rita", "restricted").token)
    with pytest.raises(Denied, match="sandboxed"):
        restricted.certificate  # noqa: B018  # asking enrols
