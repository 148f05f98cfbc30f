"""How much a request may hold, by its path."""

import pytest

from gateway.limits import limit_of

_MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/api/v1/projects/icu-west/models/risk/1/files/weights.bin", 1024 * _MIB),
        ("/api/v1/projects/icu-west/training-data", 512 * _MIB),
        ("/api/v1/projects/icu-west/feature-groups/vitals/1/rows", 256 * _MIB),
        ("/api/v1/projects/icu-west/sql", 32 * _MIB),
        ("/api/v1/enrolments/api-key", 64 << 10),
        ("/api/v1/enrolments/certificate", 64 << 10),
        ("/console/login", 64 << 10),
    ],
)
def test_each_kind_of_body_has_its_limit(path: str, most: int) -> None:
    assert limit_of(path) == most


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/projects/files/topics/plan",
        "/api/v1/projects/files/topics/files/records",
        "/api/v1/projects/a/topics/rows/rows",
        "/api/v1/projects/a/models/b/1/files/c/topics/plan",
        "/x/api/v1/projects/a/training-data",
        "/api/v1/projects/a/b/training-data",
        "/files/",
    ],
)
def test_no_name_raises_the_limit_of_another_route(path: str) -> None:
    assert limit_of(path) == 32 * _MIB
