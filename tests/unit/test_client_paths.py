"""A name goes into an address as one part of its path, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from wardstream.client.programs import Processors, Programs
from wardstream.client.projects import Project, Projects
from wardstream.client.topics import Topics
from wardstream.client.transport import Transport, path_part
from wardstream.errors import Invalid

_ODD = "../b#c?d/e%2F"
_QUOTED = "..%2Fb%23c%3Fd%2Fe%252F"


class _Asked:
    """Keeps the path that was asked for, and gives no answer."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def json(self, method: str, path: str, **_: object) -> Any:
        self.paths.append(path)
        raise InterruptedError

    request = json


_CALLS: list[tuple[Callable[[Transport], object], str]] = [
    (lambda t: Projects(t).get(_ODD), _QUOTED),
    (lambda t: Project(t, _ODD).members(), f"{_QUOTED}/members"),
    (lambda t: Project(t, "icu").remove_member(_ODD), f"icu/members/{_QUOTED}"),
    (lambda t: Project(t, "icu").new_token(_ODD), f"icu/members/{_QUOTED}/enrolment-token"),
    (lambda t: Project(t, "icu").get_feature_store().get_feature_group(_ODD, 2), f"icu/feature-groups/{_QUOTED}/2"),
    (lambda t: Topics(t, "icu").produce(_ODD, []), f"icu/topics/{_QUOTED}/records"),
    (lambda t: Topics(t, _ODD).list(), f"{_QUOTED}/datasets"),
    (lambda t: Processors(t, _ODD).remove(_ODD), f"{_QUOTED}/processors/{_QUOTED}"),
    (lambda t: Processors(t, "icu").logs(_ODD), f"icu/processors/{_QUOTED}/logs"),
    (lambda t: Programs(t, _ODD).stop(_ODD), f"{_QUOTED}/programs/{_QUOTED}"),
    (lambda t: Programs(t, "icu").file(_ODD, _ODD), f"icu/programs/{_QUOTED}/files/{_QUOTED}"),
]


@pytest.mark.parametrize(("call", "path"), _CALLS)
def test_a_name_stays_one_part_of_the_path(call: Callable[[Transport], object], path: str) -> None:
    asked = _Asked()

    with pytest.raises(InterruptedError):
        call(cast(Transport, asked))

    assert asked.paths == [f"/api/v1/projects/{path}"]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_change_the_path_is_invalid(name: str) -> None:
    with pytest.raises(Invalid, match="is not a name"):
        path_part(name)
