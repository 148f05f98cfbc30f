"""The RHC study: 5,735 critically ill adults (Connors and others, 1996), as two streams in the order of their times.

Only what was known on the first day is a feature. Outcome columns (death, dth30, t3d30, dschdte, dthdte, lstctdte),
columns of later days (adld3p, das2d3pc) and another model's prediction (surv2md1) are left out of the first stream;
deaths and discharges are the second stream, each at its own time.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# Dates of the study count days since this one.
_DAY_ZERO = datetime(1960, 1, 1, tzinfo=UTC)

MEASURED = ("age", "aps1", "scoma1", "meanbp1", "wblc1", "hrt1", "resp1", "temp1", "pafi1", "alb1", "hema1", "bili1", "crea1")
MEASURED_TOO = ("sod1", "pot1", "paco21", "ph1", "wtkilo1", "urin1")
HISTORY = (
    "cardiohx",
    "chfhx",
    "dementhx",
    "psychhx",
    "chrpulhx",
    "renalhx",
    "liverhx",
    "gibledhx",
    "malighx",
    "immunhx",
    "transhx",
    "amihx",
)
YES_NO = {
    "dnr1": "dnr1",
    "resp": "dx_respiratory",
    "card": "dx_cardiovascular",
    "neuro": "dx_neurological",
    "gastr": "dx_gastrointestinal",
    "renal": "dx_renal",
    "meta": "dx_metabolic",
    "hema": "dx_hematologic",
    "seps": "dx_sepsis",
    "trauma": "dx_trauma",
    "ortho": "dx_orthopedic",
}
WORDS = {"cat1": "disease", "ca": "cancer", "sex": "sex"}
# In these columns a zero stands for a value that nobody measured.
_ZERO_IS_MISSING = frozenset({"hrt1", "resp1", "meanbp1", "wtkilo1"})

DAY1_FEATURES: dict[str, str] = {
    "patient": "string",
    "admitted_at": "timestamp",
    **dict.fromkeys((*MEASURED, *MEASURED_TOO), "double"),
    **dict.fromkeys(HISTORY, "boolean"),
    **dict.fromkeys(YES_NO.values(), "boolean"),
    **dict.fromkeys(WORDS.values(), "string"),
}
OUTCOME_FEATURES: dict[str, str] = {"patient": "string", "occurred_at": "timestamp", "kind": "string"}


def admissions(file: Path) -> Iterator[dict[str, Any]]:
    """Yield one record per patient in the order of admission: what was known on the first day, missing values as None."""
    for row in sorted(_rows(file), key=lambda row: (int(row["sadmdte"]), row["ptid"])):
        record: dict[str, Any] = {"patient": row["ptid"], "admitted_at": _day(row["sadmdte"])}
        for name in (*MEASURED, *MEASURED_TOO):
            record[name] = _number(name, row[name])
        for name in HISTORY:
            record[name] = row[name].strip() == "1"
        for name, feature in YES_NO.items():
            record[feature] = row[name] == "Yes"
        for name, feature in WORDS.items():
            record[feature] = row[name]
        yield record


def outcomes(file: Path) -> Iterator[dict[str, Any]]:
    """Yield deaths and discharges in the order of their times; a patient who died in hospital has a death only."""
    events = []
    for row in _rows(file):
        if row["dthdte"] != "NA":
            events.append({"patient": row["ptid"], "occurred_at": _day(row["dthdte"]), "kind": "death"})
        if row["dschdte"] != "NA" and row["dschdte"] != row["dthdte"]:
            events.append({"patient": row["ptid"], "occurred_at": _day(row["dschdte"]), "kind": "discharge"})
    yield from sorted(events, key=lambda event: (event["occurred_at"], event["patient"]))


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as source:
        return list(csv.DictReader(source))


def _day(text: str) -> datetime:
    return _DAY_ZERO + timedelta(days=int(text))


def _number(name: str, text: str) -> float | None:
    if text.strip() in ("", "NA"):
        return None
    value = float(text)
    return None if value == 0 and name in _ZERO_IS_MISSING else value
