"""Accounts over the platform's doors: the console's form, REST, sessions as bearer."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pyotp
import pytest

from tests.support.doors import door
from tests.support.stack import RunningStack, fresh
from tests.support.waiting import eventually
from wardstream.client.people import begin_setup, finish_setup, log_in
from wardstream.client.transport import Transport
from wardstream.errors import Denied, Unauthenticated

pytestmark = pytest.mark.stack
PASSWORD = "four words make one"


def test_person_logs_in_to_a_project_and_loses_all_when_the_account_is_closed(stack: RunningStack) -> None:
    name = f"{fresh('anna')}@example.org"
    project = stack.new_project("people")
    project.owner.project.add_member("ann", "data-scientist", person=name)
    link, _ = stack.admin.people.add(name)
    anonymous = stack.kept(Transport(stack.url(), ca_file=stack.root))
    _, secret = begin_setup(anonymous, link, PASSWORD)
    opened = finish_setup(anonymous, link, pyotp.TOTP(secret).now())
    assert opened.principal == f"{project.name}__ann"
    assert len(opened.recovery_codes) == 10
    session = stack.connection(opened.text)
    assert session.whoami().principal == f"{project.name}__ann"
    with pytest.raises(Denied):
        session.people.list()
    # In the console, by the form, with a recovery code.
    with door(stack) as browser:
        form = {"name": name, "password": PASSWORD, "code": opened.recovery_codes[0]}
        answer = browser.post("/console/login/password", data=form, headers={"origin": stack.url()})
        assert answer.status_code == 303
        assert "httponly" in answer.headers["set-cookie"].lower()
        assert project.name in browser.get("/console/").text
        wrong = browser.post("/console/login/password", data={**form, "code": "000000"}, headers={"origin": stack.url()})
        assert wrong.status_code == 401
        assert PASSWORD not in wrong.text
    found = project.owner.connection.audit.search(project=project.name, text=name)
    assert {entry["action"] for entry in found} >= {"session.open", "member.add"}
    begun = time.monotonic()
    stack.admin.people.disable(name)

    def gone() -> bool:
        try:
            session.whoami()
        except Unauthenticated:
            return True
        return False

    eventually(gone, within=5)
    assert time.monotonic() - begun < 5
    with pytest.raises(Unauthenticated):
        log_in(anonymous, name, PASSWORD, opened.recovery_codes[1])


def test_keys_of_ones_own_are_made_listed_and_revoked(stack: RunningStack) -> None:
    project = stack.new_project("keys")
    account = project.owner.connection.account
    key, key_id = account.create_key("dashboard", scopes=["read"], days=1)
    reader = stack.connection(key)
    assert reader.projects.get(project.name).topics.list() == []
    with pytest.raises(Denied, match="key"):
        reader.projects.get(project.name).members()
    listed = account.keys()
    (kept,) = [each for each in listed if each["id"] == key_id]
    assert kept["scopes"] == ["read"]
    assert datetime.fromisoformat(kept["expires_at"]) > datetime.now(UTC)
    assert key not in str(listed)
    account.revoke_key(key_id)
    with pytest.raises(Unauthenticated):
        reader.whoami()
