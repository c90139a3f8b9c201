"""States in a folder: whole or absent, the newest few kept, and the disk may do what it likes."""

import os
import resource
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tta_daemon.control.checkpoint import Checkpoint, MemoryCheckpoint
from tta_daemon.control.checkpoint_file import FileCheckpoint
from tta_daemon.control.snapshot import Snapshot, encode
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition


def snapshot(step: int, stream: str = "", size: int = 4) -> Snapshot:
    return Snapshot(stream, {"w": torch.full((size,), float(step))}, {Partition("images", 0): step}, {"method": "tent"})


def step_of(found: Snapshot | None) -> int | None:
    return None if found is None else int(found.memory["w"][0])


@pytest.fixture(params=["memory", "file"])
def checkpoint(request, tmp_path):
    made: Checkpoint = MemoryCheckpoint() if request.param == "memory" else FileCheckpoint(tmp_path / "state")
    yield made
    made.close()


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_the_newest_comes_back_by_stream(checkpoint: Checkpoint) -> None:
    assert checkpoint.latest("") is None
    for step in range(12):
        checkpoint.save(snapshot(step))
    checkpoint.save(snapshot(70, "cam/7 äöü"))
    checkpoint.save(snapshot(80, "x" * 500))
    assert step_of(checkpoint.latest("")) == 11
    assert step_of(checkpoint.latest("cam/7 äöü")) == 70
    assert step_of(checkpoint.latest("x" * 500)) == 80
    assert checkpoint.latest("cam/7") is None


def test_what_is_set_aside_is_not_found_and_saving_goes_on(checkpoint: Checkpoint) -> None:
    checkpoint.save(snapshot(1))
    checkpoint.save(snapshot(1, "other"))
    assert checkpoint.set_aside("") == 1
    assert checkpoint.latest("") is None
    assert step_of(checkpoint.latest("other")) == 1
    checkpoint.save(snapshot(2))
    assert step_of(checkpoint.latest("")) == 2
    assert checkpoint.set_aside("nothing") == 0


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path, keep=2)
    for step in range(5):
        checkpoint.save(snapshot(step))
    assert states(tmp_path) == ["state-.00000004.safetensors", "state-.00000005.safetensors"]
    checkpoint.close()
    again = FileCheckpoint(tmp_path, keep=2)
    again.save(snapshot(5))
    assert step_of(again.latest("")) == 5
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name != "lock" for path in tmp_path.iterdir())
    again.close()


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "folder"])
def test_a_broken_state_is_skipped_for_the_one_before_it(tmp_path: Path, harm: str) -> None:
    checkpoint = FileCheckpoint(tmp_path)
    for step in range(3):
        checkpoint.save(snapshot(step))
    newest = tmp_path / states(tmp_path)[-1]
    blob = newest.read_bytes()
    if harm == "folder":
        newest.unlink()
        newest.mkdir()
    else:
        newest.write_bytes({"cut": blob[:-1], "flip": blob[:-1] + bytes([blob[-1] ^ 1]), "empty": b""}[harm])
    assert step_of(checkpoint.latest("")) == 1
    checkpoint.save(snapshot(9))
    assert step_of(checkpoint.latest("")) == 9
    checkpoint.close()


def test_no_whole_state_is_no_state(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path)
    (tmp_path / "state-.00000001.safetensors").write_bytes(b"x")
    assert checkpoint.latest("") is None
    checkpoint.close()


def test_what_a_crash_left_unfinished_is_removed_and_never_read(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path)
    checkpoint.save(snapshot(1))
    unfinished = tmp_path / "state-.00000002.safetensors.unfinished"
    unfinished.write_bytes(encode(snapshot(2))[:50])
    assert step_of(checkpoint.latest("")) == 1
    checkpoint.close()
    FileCheckpoint(tmp_path).close()
    assert not unfinished.exists()


def test_a_full_disk_leaves_the_older_state_and_nothing_else(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path)
    checkpoint.save(snapshot(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write that the kernel refuses, as on a full disk
    try:
        with pytest.raises(CheckpointError, match="cannot be saved in"):
            checkpoint.save(snapshot(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert states(tmp_path) == ["state-.00000001.safetensors"]
    assert step_of(checkpoint.latest("")) == 1
    checkpoint.save(snapshot(3, size=100_000))
    assert step_of(checkpoint.latest("")) == 3
    checkpoint.close()


def test_a_state_appears_only_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, happened, sync = FileCheckpoint(tmp_path), [], os.fsync

    def seen(descriptor: int) -> None:
        happened.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, tuple(states(tmp_path))))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    checkpoint.save(snapshot(1))
    name = "state-.00000001.safetensors"
    assert happened == [(f"{name}.unfinished", (f"{name}.unfinished",)), (tmp_path.name, (name,))]
    checkpoint.close()


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"another process .* checkpoint\.folder of its own"):
        FileCheckpoint(tmp_path)
    checkpoint.close()
    FileCheckpoint(tmp_path).close()


def test_a_folder_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no state can be saved in"):
        FileCheckpoint(tmp_path / "file" / "state")


def test_a_process_killed_while_it_saves_leaves_a_whole_state(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, torch
        from pathlib import Path
        from tta_daemon.control.checkpoint_file import FileCheckpoint
        from tta_daemon.control.snapshot import Snapshot
        checkpoint, step = FileCheckpoint(Path(sys.argv[1]), keep=2), 0
        while True:
            step += 1
            checkpoint.save(Snapshot("", {"w": torch.full((500_000,), float(step))}, {}, {}))
            print(step, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        said = int(process.stdout.readline())
    process.kill()
    process.wait()
    said = int((process.stdout.read().split() or [said])[-1])
    process.stdout.close()
    checkpoint = FileCheckpoint(tmp_path)
    found = checkpoint.latest("")
    assert found is not None
    assert (found.memory["w"] == step_of(found)).all()
    assert said <= (step_of(found) or 0) <= said + 1
    checkpoint.close()
