"""Freshness, keys and pseudonyms of the online store."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from featurestore.model import Feature, FeatureGroup, FeatureType
from featurestore.online.pseudonym import Pseudonyms
from featurestore.online.row import RowCodec
from featurestore.online.store import Selection, checked_entities, fresh, newest_of_batch
from wardstream.errors import Invalid
from wardstream.names import GroupName, ProjectName

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GROUP = FeatureGroup(
    ProjectName("icu"),
    GroupName("vitals"),
    1,
    ("patient", "bed"),
    "at",
    (
        Feature("patient", FeatureType.STRING),
        Feature("bed", FeatureType.INT),
        Feature("at", FeatureType.TIMESTAMP),
        Feature("pulse", FeatureType.INT),
        Feature("rhythm", FeatureType.STRING),
    ),
    ttl_seconds=60,
)


def rows(*entries: tuple[str, int, float, int]) -> pa.Table:
    """Patient, bed, seconds before now, pulse; ingested in the order given."""
    patients, beds, ages, pulses = zip(*entries, strict=True)
    return pa.table(
        {
            "patient": patients,
            "bed": pa.array(beds, pa.int32()),
            "at": pa.array([NOW - timedelta(seconds=age) for age in ages]),
            "pulse": pa.array(pulses, pa.int32()),
            "rhythm": ["sinus"] * len(entries),
            "_ingested_at": pa.array([NOW] * len(entries)),
            "_offset": list(range(len(entries))),
        }
    )


def test_an_old_row_is_null_but_says_how_old_it_is() -> None:
    codec = RowCodec(GROUP)
    found = fresh(Selection(GROUP), codec.unpack([*codec.pack(rows(("p", 1, 60.0, 70), ("p", 2, 60.001, 71))), None]), now=NOW)
    assert found.values.to_pylist() == [{"pulse": 70, "rhythm": "sinus"}, {"pulse": None, "rhythm": None}, {"pulse": None, "rhythm": None}]
    assert found.age_seconds.to_pylist() == [60.0, 60.001, None]
    assert found.event_time.to_pylist()[2] is None


def test_selected_features_come_alone() -> None:
    codec = RowCodec(GROUP)
    found = fresh(Selection(GROUP, ("rhythm",)), codec.unpack(codec.pack(rows(("p", 1, 0, 70)))), now=NOW)
    assert found.values.to_pylist() == [{"rhythm": "sinus"}]


def test_of_a_batch_the_newest_event_wins_then_the_latest_ingested() -> None:
    batch = rows(("p", 1, 5, 1), ("p", 1, 0, 2), ("p", 1, 0, 3), ("p", 1, 9, 4), ("p", 11, 0, 5), ("p1", 1, 0, 6))
    found = newest_of_batch(GROUP, batch, ["_ingested_at", "_offset"])
    assert sorted(found["pulse"].to_pylist()) == [3, 5, 6]
    shuffled = batch.take([2, 5, 1, 0, 4, 3])
    assert sorted(newest_of_batch(GROUP, shuffled, ["_ingested_at", "_offset"])["pulse"].to_pylist()) == [3, 5, 6]


def test_entities_are_checked_before_the_store_is_asked() -> None:
    assert checked_entities([GROUP], {"patient": ["p"], "bed": [7.0], "other": []}) == {"bed": [7], "patient": ["p"]}
    wrong: list[tuple[dict[str, list[object]], str]] = [
        ({"patient": ["p"]}, "lack the key bed; they have patient"),
        ({"patient": ["p"], "bed": ["x"]}, "bed must be int32"),
        ({"patient": [None], "bed": [1]}, "patient has nulls"),
        ({"patient": ["p", "q"], "bed": [1]}, "equally long"),
        ({"patient": ["p"], "bed": [2**70]}, "bed must be int32"),
        ({"patient": [2**70], "bed": [1]}, "patient must be string"),
        ({"patient": ["\ud800"], "bed": [1]}, "patient must be whole Unicode"),
    ]
    for entities, hint in wrong:
        with pytest.raises(Invalid, match=hint):
            checked_entities([GROUP], entities)


def test_online_keys_hide_the_identifier_and_differ_between_projects() -> None:
    ours = Pseudonyms(ProjectName("icu"), b"k" * 32).online_keys("patient", [("4711",), ("4712",), ("4711",)])
    theirs = Pseudonyms(ProjectName("lab"), b"K" * 32).online_keys("patient", [("4711",)])
    assert ours[0].startswith(b"p:{icu}:patient:")
    assert b"4711" not in b"".join(ours)
    assert ours[0] == ours[2] != ours[1]
    assert ours[0].rpartition(b":")[2] != theirs[0].rpartition(b":")[2]


def test_composite_keys_and_entities_do_not_collide() -> None:
    names = Pseudonyms(ProjectName("icu"), b"k" * 32)
    keys = names.online_keys("a,b", [("1", "23"), ("12", "3")]) + names.online_keys("a", [("1",)]) + names.online_keys("b", [("1",)])
    assert len({key.rpartition(b":")[2] for key in keys}) == 4


def test_a_short_pseudonym_key_is_refused() -> None:
    with pytest.raises(Invalid, match="32"):
        Pseudonyms(ProjectName("icu"), b"short")
