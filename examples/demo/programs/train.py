"""Death within 30 days of admission to intensive care, from first-day values: a Keras model beside a logistic regression on APACHE alone.

Runs in the sandbox as the project's service `trainer`. Arguments: the time that parts earlier from later patients
(ISO 8601), epochs. Writes /out/model.keras and /out/metrics.json.

A label counts in training only with 30 days of follow-up before the split: otherwise the model would learn from
deaths that nobody could have known of at that time. Everything fitted (medians, scales, categories) is fitted on the
training patients alone.
"""

import json
import sys
from datetime import datetime, timedelta

import keras
import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

import wardstream

SPLIT = datetime.fromisoformat(sys.argv[1])
EPOCHS = int(sys.argv[2])
FOLLOW_UP = timedelta(days=30)
CATEGORIES = ("disease", "cancer", "sex")


class Preparation:
    """Medians, scales and categories of the training patients; turns features into numbers."""

    def __init__(self, table: pa.Table, numbers: list[str], flags: list[str]) -> None:
        self.numbers, self.flags = numbers, flags
        raw = self._raw(table)
        self.medians = np.nanmedian(raw, axis=0)
        filled = np.where(np.isnan(raw), self.medians, raw)
        self.means, self.scales = filled.mean(axis=0), filled.std(axis=0) + 1e-9
        self.known = {name: sorted(set(table.column(name).drop_null().to_pylist())) for name in CATEGORIES}

    def __call__(self, table: pa.Table) -> np.ndarray:
        """Return one row of numbers per patient."""
        raw = self._raw(table)
        missing = np.isnan(raw)
        scaled = np.clip((np.where(missing, self.medians, raw) - self.means) / self.scales, -5, 5)
        flags = np.column_stack([table.column(name).fill_null(False).to_numpy().astype(np.float32) for name in self.flags])
        hot = [np.array(table.column(name).to_pylist(), dtype=object) == value for name in CATEGORIES for value in self.known[name]]
        return np.column_stack([scaled, missing, flags, *hot]).astype(np.float32)

    def _raw(self, table: pa.Table) -> np.ndarray:
        return np.column_stack([table.column(name).fill_null(float("nan")).to_numpy().astype(float) for name in self.numbers])


def calibration(truth: np.ndarray, predicted: np.ndarray) -> list[dict[str, float]]:
    """Return predicted and observed risk in fifths of predicted risk."""
    order = np.argsort(predicted)
    return [
        {"predicted": float(predicted[part].mean()), "observed": float(truth[part].mean()), "patients": len(part)}
        for part in np.array_split(order, 5)
    ]


def interval(truth: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Return the 95 % bootstrap interval of the AUROC (1,000 resamples of patients)."""
    generator = np.random.default_rng(0)
    values = []
    for _ in range(1000):
        chosen = generator.integers(0, len(truth), len(truth))
        if 0 < truth[chosen].sum() < len(chosen):
            values.append(roc_auc_score(truth[chosen], predicted[chosen]))
    return [float(edge) for edge in np.percentile(values, [2.5, 97.5])]


def report(truth: np.ndarray, predicted: np.ndarray) -> dict[str, object]:
    """Return everything that the demo shows of one model."""
    false_positive, true_positive, _ = roc_curve(truth, predicted)
    kept = np.unique(np.linspace(0, len(false_positive) - 1, min(200, len(false_positive))).astype(int))
    return {
        "auroc": float(roc_auc_score(truth, predicted)),
        "auroc_interval": interval(truth, predicted),
        "brier": float(brier_score_loss(truth, predicted)),
        "mean_predicted": float(predicted.mean()),
        "mean_observed": float(truth.mean()),
        "calibration": calibration(truth, predicted),
        "roc": [[float(x), float(y)] for x, y in zip(false_positive[kept], true_positive[kept], strict=True)],
    }


keras.utils.set_random_seed(20261124)
store = wardstream.login().get_feature_store()
group = store.get_feature_group("icu_day1")
if group is None:
    raise SystemExit("the feature group icu_day1 is not there")
numbers = [f.name for f in group.features if f.type == "double"]
flags = [f.name for f in group.features if f.type == "boolean"]

# The spine: every admission with its label; deaths come from a stream of their own.
spine = store.sql(
    """SELECT d.patient, d.admitted_at AS label_time, max(o.patient) IS NOT NULL AS label
       FROM icu_day1 AS d LEFT JOIN icu_outcome AS o
         ON o.patient = d.patient AND o.kind = 'death' AND o.occurred_at <= d.admitted_at + INTERVAL 30 DAY
       GROUP BY d.patient, d.admitted_at ORDER BY d.admitted_at, d.patient"""
)
with store.training_data(spine, label_time="label_time", features=[group.select([*numbers, *flags, *CATEGORIES])]) as batches:
    snapshot = (batches.schema.metadata or {}).get(b"wardstream.snapshot", b"").decode()
    table = batches.read_all()

times = np.array(table.column("label_time").to_pylist(), dtype="datetime64[us]")
split = np.datetime64(SPLIT.replace(tzinfo=None), "us")
training = table.filter(pa.array(times <= split - np.timedelta64(FOLLOW_UP)))
later = table.filter(pa.array(times > split))
y_training = training.column("label").to_numpy().astype(np.float32)
y_later = later.column("label").to_numpy().astype(np.float32)
print(
    f"{training.num_rows} training patients, {later.num_rows} later patients, {table.num_rows - training.num_rows - later.num_rows} without full follow-up"
)

prepare = Preparation(training, numbers, flags)
x_training, x_later = prepare(training), prepare(later)
model = keras.Sequential(
    [
        keras.layers.Input((x_training.shape[1],)),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(32, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
model.fit(x_training, y_training, epochs=EPOCHS, batch_size=64, verbose=0)
predicted = model.predict(x_later, verbose=0, batch_size=4096)[:, 0].astype(float)

apache_training = training.column("aps1").to_numpy().reshape(-1, 1)
apache_later = later.column("aps1").to_numpy().reshape(-1, 1)
apache = LogisticRegression().fit(apache_training, y_training).predict_proba(apache_later)[:, 1]

results = {
    "snapshot": snapshot,
    "split": SPLIT.isoformat(),
    "training_patients": training.num_rows,
    "later_patients": later.num_rows,
    "keras": report(y_later, predicted),
    "apache": report(y_later, apache),
}
model.save("/out/model.keras")
with open("/out/metrics.json", "w") as file:
    json.dump(results, file)
for name, shown in (("Keras, first-day values", results["keras"]), ("logistic regression on APACHE alone", results["apache"])):
    low, high = shown["auroc_interval"]
    print(
        f"{name}: AUROC {shown['auroc']:.3f} (95 % {low:.3f} to {high:.3f}), Brier {shown['brier']:.3f}, mean risk {shown['mean_predicted']:.3f} observed {shown['mean_observed']:.3f}"
    )
