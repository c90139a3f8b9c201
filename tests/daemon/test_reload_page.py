"""Every setting is changed by a reload and every kind of bad file is tried: docs/reload.md says what is seen."""

import tracemalloc

import pytest
from anatomy import anatomy
from reload_bad import BAD, hundred_megabytes, message
from reload_page import PAGE, bad_line, lines, page, row_line
from reload_table import observe, settings
from reloading import Reloaded, same
from world import pictures

from tta_daemon.control.config import LARGEST_FILE, Reach
from tta_daemon.control.slot import Result
from tta_daemon.control.wording import line_of

TEXT = PAGE.read_text(encoding="utf-8")
SEEN, TOLD = lines(TEXT, "## What each setting does"), lines(TEXT, "## What a bad file is told")
STALE = "run scripts/reload_page"


def test_the_page_is_current_but_for_what_is_tried_below():
    assert page(SEEN, TOLD) == TEXT, STALE
    assert [line.split("`")[1] for line in SEEN] == list(settings()), STALE
    assert [line.split(" | ")[0].removeprefix("| ") for line in TOLD] == [bad.title for bad in BAD], STALE


@pytest.mark.parametrize("path", list(settings()))
def test_a_reload_does_with_each_setting_what_its_reach_says(tmp_path, path):
    row = observe(path, tmp_path)
    if row.reach is Reach.RESTART:
        line = line_of((tmp_path / "config.toml").read_text(), path)
        assert row.refusal.startswith(f"config.toml, line {line}: {path}: ")
        assert row.refusal.endswith("restart the daemon, or put the old value back")
    elif row.reach is Reach.LIVE:
        assert (row.refusal, row.built, row.learned) == ("", (), "is kept")
    else:
        assert row.built or row.refusal
    assert row.unlike == ()
    assert row_line(row) in SEEN, STALE


@pytest.mark.parametrize("bad", BAD, ids=[bad.title for bad in BAD])
def test_a_bad_file_is_refused_by_name_with_its_remedy(tmp_path, bad):
    world = Reloaded(tmp_path)
    world.send(pictures(16))
    world.go_on()
    before, parts = world.memory(), anatomy(world.daemon)
    said = message(world, bad)
    assert bad.names in said
    assert bad.remedy in said
    assert all(fault.startswith("    ") is bool(number % 2) for number, fault in enumerate(said.splitlines()))
    world.daemon.turn()
    assert same(before, world.memory())
    assert anatomy(world.daemon) == parts
    assert bad_line(bad, said) in TOLD, STALE


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    world = Reloaded(tmp_path)
    hundred_megabytes(world.file)
    tracemalloc.start()
    try:
        assert world.reloader.look().result is Result.REFUSED
        assert world.reloader._changed() is False
        assert tracemalloc.get_traced_memory()[1] < 8 * LARGEST_FILE
    finally:
        tracemalloc.stop()
