"""The demo's main line on fewer records: each step checks itself, and what it found is checked here."""

from contextlib import suppress
from pathlib import Path

import pytest

from examples.demo.people import Platform
from examples.demo.story import Scale, Story
from tests.support.stack import REPOSITORY, RunningStack
from wardstream.errors import WardstreamError


@pytest.mark.timeout(420)
def test_two_studies_go_from_certificates_to_a_trained_model(stack: RunningStack, tmp_path: Path) -> None:
    platform = Platform(
        url=stack.url(),
        outside_url=stack.url("outside"),
        bootstrap_servers=stack.bootstrap(),
        ca=stack.root,
        admin_key_file=stack.home / "admin.key",
        credentials=tmp_path,
    )
    story = Story(platform, REPOSITORY / ".data", Scale(ecg_seconds=60, ppg_seconds=40, every_nth_patient=4, reads=300, epochs=2))

    with platform.opened:
        story.enrol()
        try:
            story.bedside()
            story.patients()
            story.sequencer()
            story.explore()
            story.train()
            story.walls()
            story.malformed()
            story.removal()
            story.reconcile()
        finally:
            _stop_what_runs(story)

    assert story.found.strip is not None
    assert 10 <= len(story.found.strip.beats) <= 25  # ten seconds of it
    assert len(story.found.walls) == 14
    assert all(wall.refused for wall in story.found.walls)
    assert len({letter["reason"] for letter in story.found.dead_letters}) >= 7
    rates = [rate for _, rate in story.found.heart_rate["ecg-bed1"]]
    assert 80 < sum(rates) / len(rates) < 120  # the record has about 100 beats a minute
    assert story.found.model["keras"]["auroc"] > 0.5
    assert {(row["project"], row["group"]) for row in story.found.reconciliation} == {
        ("icu-west", "ecg_10s"),
        ("icu-west", "icu_day1"),
        ("icu-west", "icu_outcome"),
        ("virology", "reads_1m"),
    }


def _stop_what_runs(story: Story) -> None:
    """Other tests share the machine with the demo's processors and tables. Nothing is tested here, so nothing fails."""
    with suppress(WardstreamError):
        story.ida.project.remove_member("trainer")
    for owner in (story.ida, story.olaf):
        with suppress(WardstreamError):
            for processor in owner.project.processors.list():
                owner.project.processors.remove(processor["name"])
            for group in owner.project.get_feature_store().get_feature_groups():
                group.delete()
