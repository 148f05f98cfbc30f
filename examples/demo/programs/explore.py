"""A data scientist looks at the tables. Runs inside the sandbox, where rows may be read; prints counts and means only."""

import wardstream
from wardstream.errors import WardstreamError

QUESTIONS = {
    "patients by disease, with the share who died within 30 days of admission": """
        SELECT d.disease, count(*) AS patients, round(avg(d.age), 1) AS mean_age,
               round(100.0 * count(o.patient) / count(*), 1) AS died_within_30_days_percent
        FROM icu_day1 AS d LEFT JOIN icu_outcome AS o
          ON o.patient = d.patient AND o.kind = 'death' AND o.occurred_at <= d.admitted_at + INTERVAL 30 DAY
        GROUP BY d.disease ORDER BY patients DESC""",
    "heart rate of the bedside monitors": """
        SELECT device, count(*) AS windows, round(avg(heart_rate), 1) AS mean_rate, round(min(heart_rate), 1) AS lowest,
               round(max(heart_rate), 1) AS highest
        FROM ecg_10s GROUP BY device ORDER BY device""",
}

project = wardstream.login()
features = project.get_feature_store()
for question, statement in QUESTIONS.items():
    result = features.sql(statement)
    print(f"\n{question}:")
    print("  " + "  ".join(f"{name:>16}" for name in result.column_names))
    for row in result.to_pylist():
        print("  " + "  ".join(f"{row[name]!s:>16}" for name in result.column_names))
try:
    features.sql("SELECT * FROM reads_1m")
    raise SystemExit("a table of another project was read")
except WardstreamError as error:
    print(f"\nasked for another project's table: {error.message}")
