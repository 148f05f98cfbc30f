"""The demo streams patients as the study has them: in order, with zeros that stand for missing turned into nulls."""

from pathlib import Path

import pytest

from examples.demo.drawing import Axes, Line, bars, chart
from examples.devices import rhc

_RHC = Path(__file__).resolve().parents[2] / ".data" / "tableone" / "rhc.csv"


@pytest.fixture(scope="module")
def admissions() -> list[dict[str, object]]:
    return list(rhc.admissions(_RHC))


def test_every_patient_is_admitted_once_in_order(admissions: list[dict[str, object]]) -> None:
    assert len(admissions) == 5735
    assert len({record["patient"] for record in admissions}) == 5735
    times = [str(record["admitted_at"]) for record in admissions]
    assert times == sorted(times)


@pytest.mark.parametrize(("name", "missing"), [("hrt1", 159), ("resp1", 136), ("meanbp1", 80), ("wtkilo1", 515), ("urin1", 3028)])
def test_zeros_that_stand_for_missing_become_null(admissions: list[dict[str, object]], name: str, missing: int) -> None:
    assert sum(record[name] is None for record in admissions) == missing


def test_no_feature_was_known_only_later(admissions: list[dict[str, object]]) -> None:
    leaks = {"death", "dth30", "t3d30", "dschdte", "dthdte", "lstctdte", "adld3p", "das2d3pc", "surv2md1"}

    assert not leaks & set(admissions[0])
    assert set(admissions[0]) == set(rhc.DAY1_FEATURES)


def test_1918_patients_died_within_30_days(admissions: list[dict[str, object]]) -> None:
    deaths = {event["patient"]: event["occurred_at"] for event in rhc.outcomes(_RHC) if event["kind"] == "death"}

    within = [r for r in admissions if r["patient"] in deaths and (deaths[r["patient"]] - r["admitted_at"]).days <= 30]

    assert len(within) == 1918


def test_a_drawing_escapes_what_it_is_given() -> None:
    drawn = chart([Line("<b>", [(0, 1), (2, 3)], 1), Line("b", [(1, 1)], 2, marks=True)], Axes("<x>", "y"), title="<script>")

    assert "<script>" not in drawn
    assert "<b>" not in drawn
    assert drawn.count("<polyline") == 1
    assert drawn.count("<circle") == 1


def test_a_histogram_has_a_bar_for_each_count() -> None:
    assert bars([0, 1, 2, 3], [1, 0, 5], Axes("x", "y"), title="t").count("<rect") == 3


def test_nothing_to_draw_is_said() -> None:
    assert "nothing to draw" in chart([Line("a", [], 1)], Axes("x", "y"), title="t")
