"""The watcher sees what a file says, however it is put there, and asks nothing of whoever puts it."""

import signal
import threading
import time

import pytest

from tta_daemon.control import reload
from tta_daemon.control.config import Config
from tta_daemon.control.reload import Reloader
from tta_daemon.control.slot import Prepared, Result, Slot

DEADLINE_S = 60.0


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
    return value


class Watched:
    """A file, its watcher, and what came of every look."""

    def __init__(self, file):
        self.file, self.said = file, []
        self.slot = Slot(Config(), None)
        self.reloader = Reloader(file, {}, lambda _, new, __: Prepared(new, ()), self.slot, self.said.append)

    def taken(self):
        """The loop's part: the size that it goes by."""
        self.slot.take()
        return self.slot._standing.config.batch.size  # to withdraw would take away what has just been put there

    def looked(self):
        """Until the first look is over."""
        until(lambda: self.reloader._looked_at != reload.NEVER)
        self.reloader.ask().result(DEADLINE_S)
        self.said.clear()

    def goes_by(self, size):
        until(lambda: self.taken() == size)

    def told(self, result):
        return until(lambda: next((verdict for verdict in self.said if verdict.result is result), None))

    def told_in_all(self, *results):
        """The loop may go by what was prepared before the verdict on it is told."""
        until(lambda: len(self.said) >= len(results))
        assert [verdict.result for verdict in self.said] == list(results)


def sized(size):
    return f"[batch]\nsize = {size}\n".encode()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(reload, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(reload, "STILL_S", 0.01)
    file = tmp_path / "config.toml"
    file.write_bytes(b"")
    watched = Watched(file)
    watched.reloader.start()
    yield watched
    watched.reloader.stop(DEADLINE_S)
    assert "reload" not in {thread.name for thread in threading.enumerate()}


def move(file, content):
    file.with_name("fresh").write_bytes(content)
    file.with_name("fresh").replace(file)


def rewrite(file, content):
    file.write_bytes(content)


def link(file, content):
    folder = file.parent / f"..{time.monotonic_ns()}"
    folder.mkdir()
    (folder / file.name).write_bytes(content)
    fresh = file.parent / "..data_tmp"
    fresh.symlink_to(folder.name)
    fresh.replace(file.parent / "..data")
    if not file.is_symlink():
        file.unlink()
        file.symlink_to(f"..data/{file.name}")


def remove_and_create(file, content):
    file.unlink()
    time.sleep(0.05)
    file.write_bytes(content)


@pytest.mark.parametrize("put", [move, rewrite, link, remove_and_create])
def test_it_sees_what_the_file_says(watched, put):
    for size in (32, 48, 96):
        put(watched.file, sized(size))
        watched.goes_by(size)


def test_a_config_map_is_swapped_by_its_data_link(watched):
    """What a kubelet does: the file is a link into ..data, which is a link to a folder, and only that one changes."""
    link(watched.file, sized(32))
    inode = watched.file.lstat().st_ino
    for size in (32, 48, 96):
        link(watched.file, sized(size))
        watched.goes_by(size)
    assert watched.file.lstat().st_ino == inode


def test_a_file_that_is_being_written_is_not_read_before_it_holds_still(tmp_path):
    watched = Watched(tmp_path / "config.toml")
    watched.reloader.look()
    for part in (b"[ba", b"[batch]\nsi", sized(3), sized(32)):
        watched.file.write_bytes(part)
        assert not watched.reloader._changed()
    assert watched.reloader._changed()


def test_a_file_that_is_gone_is_refused_once_and_missed_no_more_when_it_is_back(watched):
    watched.looked()
    watched.file.unlink()
    assert "cannot be read: No such file" in watched.told(Result.REFUSED).words
    move(watched.file, sized(32))
    watched.goes_by(32)
    watched.told_in_all(Result.REFUSED, Result.PREPARED)


def overwrite(file, content):
    """As `rewrite`, but never empty meanwhile."""
    with file.open("r+b") as whole:
        whole.write(content)


def test_the_same_content_is_not_looked_at_again(watched):
    watched.looked()
    move(watched.file, sized(32))
    watched.goes_by(32)
    for put in (move, overwrite):
        put(watched.file, sized(32))
    assert watched.reloader.ask().result(DEADLINE_S).result is Result.UNCHANGED
    watched.told_in_all(Result.PREPARED, Result.UNCHANGED)


def test_a_bad_file_is_refused_once(watched):
    watched.looked()
    move(watched.file, sized(0))
    watched.told(Result.REFUSED)
    watched.reloader.ask().result(DEADLINE_S)
    move(watched.file, sized(32))
    watched.goes_by(32)
    watched.told_in_all(Result.REFUSED, Result.REFUSED, Result.PREPARED)


def test_a_file_that_changed_while_the_daemon_started_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(reload, "LOOK_EVERY_S", 0.02)
    file = tmp_path / "config.toml"
    file.write_bytes(sized(32))
    watched = Watched(file)  # with another configuration in force: the model took its time to load
    watched.reloader.start()
    watched.goes_by(32)
    watched.reloader.stop(DEADLINE_S)


def test_a_start_with_an_unchanged_file_is_no_reload(watched):
    until(lambda: watched.reloader._looked_at != reload.NEVER)
    assert watched.reloader.ask().result(DEADLINE_S).result is Result.UNCHANGED
    assert len(watched.said) <= 1


def test_whoever_asks_is_told(watched):
    move(watched.file, sized(32))
    asked = [watched.reloader.ask() for _ in range(5)]
    results = {future.result(DEADLINE_S).result for future in asked}
    assert results <= {Result.PREPARED, Result.UNCHANGED}


def test_whoever_still_asks_at_the_end_is_let_go(tmp_path):
    watched = Watched(tmp_path / "absent.toml")
    asked = [watched.reloader.ask() for _ in range(3)]
    watched.reloader.stop()
    watched.reloader.start()
    until(lambda: all(future.cancelled() for future in asked))


def test_signals_are_heard(watched):
    until(lambda: watched.reloader._looked_at != reload.NEVER)
    before = signal.signal(signal.SIGHUP, lambda *_: watched.reloader.ask())
    try:
        for _ in range(200):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert watched.told(Result.UNCHANGED)
    move(watched.file, sized(32))
    watched.goes_by(32)


@pytest.mark.parametrize("content", [b"", b"x" * (reload.LARGEST_FILE + 1), None])
def test_the_digest_of_anything(tmp_path, content):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert bool(reload.content_digest(file)) is (content is not None)
    assert reload.content_digest(tmp_path) == ""
