"""Rules of feature groups as values."""

from dataclasses import replace
from typing import Any

import fastavro
import pytest

from featurestore.model import Feature, FeatureGroup, FeatureType, group_from_document, record_key
from wardstream.errors import Invalid, InvalidName
from wardstream.names import GroupName, ProjectName

ECG = FeatureGroup(
    project=ProjectName("icu-west"),
    name=GroupName("ecg_10s"),
    version=1,
    primary_key=("patient", "bed"),
    event_time="at",
    features=(
        Feature("patient", FeatureType.STRING),
        Feature("bed", FeatureType.INT),
        Feature("at", FeatureType.TIMESTAMP),
        Feature("heart_rate", FeatureType.FLOAT, "beats a minute"),
        Feature("rhythm", FeatureType.STRING),
    ),
    ttl_seconds=60,
)


def test_names_of_a_group_follow_from_project_name_and_version() -> None:
    assert (ECG.dataset, ECG.topic, ECG.entity) == ("ecg_10s_1", "icu-west.ecg_10s_1", "bed,patient")


def test_only_key_and_event_time_are_required() -> None:
    types = {field["name"]: field["type"] for field in ECG.avro_schema()["fields"]}
    assert types["at"] == {"type": "long", "logicalType": "timestamp-millis"}
    assert types["heart_rate"] == ["null", "float"]
    assert [field.name for field in ECG.arrow_schema() if not field.nullable] == ["patient", "bed", "at"]
    fastavro.parse_schema(ECG.avro_schema())


def test_a_group_survives_the_way_through_json() -> None:
    assert group_from_document("icu-west", ECG.document()) == ECG


def test_composite_keys_do_not_collide() -> None:
    assert record_key(("1", "23")) != record_key(("12", "3"))
    assert record_key((7, "ä")) == b"\0\0\0\x017\0\0\0\x02\xc3\xa4"


def test_fingerprint_follows_the_layout_and_nothing_else() -> None:
    assert replace(ECG, description="other", ttl_seconds=None, version=2).fingerprint() == ECG.fingerprint()
    assert replace(ECG, features=ECG.features[:-1]).fingerprint() != ECG.fingerprint()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"version": 0}, "at least 1"),
        ({"features": ()}, "1 to"),
        ({"features": (*ECG.features, Feature("_offset", FeatureType.INT))}, "not a feature name"),
        ({"features": (*ECG.features, Feature("bed", FeatureType.INT))}, "more than once: bed"),
        ({"primary_key": ()}, "primary key"),
        ({"primary_key": ("nobody",)}, "one of the features"),
        ({"primary_key": ("heart_rate",)}, "of type string, int, bigint"),
        ({"event_time": "bed"}, "of type timestamp"),
        ({"ttl_seconds": 0}, "at least 1"),
        ({"ttl_seconds": 10**10 + 1}, "at most 10000000000"),
    ],
)
def test_an_inconsistent_group_is_refused_with_what_would_be_right(change: dict[str, Any], hint: str) -> None:
    with pytest.raises(Invalid, match=hint):
        replace(ECG, **change)


def test_a_name_that_looks_like_a_version_is_refused() -> None:
    with pytest.raises(InvalidName, match="_<digits>"):
        group_from_document("icu-west", {**ECG.document(), "name": "ecg_10"})


def test_an_unknown_type_is_refused_with_the_list() -> None:
    document = {**ECG.document(), "features": [{"name": "x", "type": "decimal"}]}
    with pytest.raises(Invalid, match="string, int, bigint, float, double, boolean, timestamp"):
        group_from_document("icu-west", document)
