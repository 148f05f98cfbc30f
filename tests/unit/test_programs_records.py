"""Records of child processes."""

from pathlib import Path

from wardstream import processes


def test_record_that_goes_away_while_it_is_read_is_passed_over(tmp_path: Path) -> None:
    # Listed, and not there when it is opened.
    (tmp_path / "gone.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "there.json").write_text('{"name": "there", "pid": 1, "start_ticks": 2, "log": "log", "started_at": 3.0}')
    (tmp_path / "torn.json").write_text('{"name": "to')
    assert [each.name for each in processes.recorded(tmp_path)] == ["there"]
    assert not (tmp_path / "torn.json").exists()
