"""A daemon under load, as systemd would start it, and a Prometheus that scrapes it."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import numpy as np
import yaml
from asked import RULES

from tta_daemon.control.toml import document
from tta_daemon.offline import demo, scans, traffic
from tta_daemon.offline.broker import Broker, free_port
from tta_daemon.offline.camera import Cameras
from tta_daemon.offline.service import Service
from tta_daemon.offline.worlds import journey

PER_SECOND = 80.0


class Supervisor:
    """The socket that systemd would listen at."""

    def __init__(self, folder):
        self.address = str(folder / "notify")
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(self.address)
        self._ear.setblocking(False)
        self.heard = []

    def listen(self):
        """All that was said so far, message by message."""
        while True:
            try:
                self.heard.append(self._ear.recv(4096).decode().splitlines())
            except BlockingIOError:
                return self.heard

    def close(self):
        self._ear.close()


class Live:
    """What is running."""

    def __init__(self, service, config, supervisor):
        self.service, self.config, self.supervisor = service, config, supervisor
        self.prometheus = ""

    def ask(self, expression):
        """What Prometheus answers to an expression: a list of series, or an error's words."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=20)
        return answer.json()["data"]["result"] if answer.is_success else answer.text


def until(condition, seconds, what):
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def prepared(folder, settings):
    """What `tta-daemon prepare` finds out of a few hundred digits."""
    _, unseen = scans.load()
    np.savez(folder / "source.npz", images=unseen.images[:400], labels=unseen.labels[:400])
    (folder / "prepare.toml").write_text(document(settings))
    words = ["--config", folder / "prepare.toml", "--source", folder / "source.npz", "--held-out", "--window", "128"]
    command = [sys.executable, "-m", "tta_daemon.cli", "prepare", *words, "--output", folder / "prior.safetensors"]
    subprocess.run([str(word) for word in command], check=True, timeout=280, capture_output=True)
    return folder / "prior.safetensors"


@contextmanager
def daemon(folder, environment):
    """A broker, a daemon that saves its state, cameras that send for a minute, and people who label."""
    supervisor = Supervisor(folder)
    environment.setenv("NOTIFY_SOCKET", supervisor.address)
    environment.setenv("WATCHDOG_USEC", "4000000")
    with Broker(folder / "broker") as broker:
        broker.create_topics(demo.TOPICS)
        config = folder / "config.toml"
        settings = demo.configuration(broker.bootstrap, 0, demo.WEIGHTS)
        settings["checkpoint"] = {"kind": "file", "folder": str(folder / "state"), "every_s": 1.0}
        settings["limits"]["reject_ratio"] = 1.0
        settings["adapt"]["every"] = 2
        settings["model"]["prior"] = str(prepared(folder, settings))
        settings["model"]["frozen"] = "runtime"
        settings["publish"] = {"folder": str(folder / "published"), "every_s": 1.0}
        port = settings["http"]["port"] = free_port()  # late: others look for ports, too
        config.write_text(document(settings))
        with Service(config, f"http://127.0.0.1:{port}", folder / "daemon.log") as service:
            for _ in service.getting_ready(180):
                pass
            plan = traffic.plan(journey(1), scans.load()[1], 700, 80, seed=0)
            with Cameras(broker.bootstrap, plan, PER_SECOND, lambda: len(plan)):
                yield Live(service, config, supervisor)
    supervisor.close()


def ready(url):
    """Whether Prometheus is."""
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def prometheus(folder, target):
    """A Prometheus server with our rules that scrapes one address every second."""
    port = free_port()
    scrape = {"job_name": "tta-daemon", "static_configs": [{"targets": [target]}]}
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config.file", folder / "prometheus.yaml", "--storage.tsdb.path", folder / "tsdb"]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", *map(str, words), f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: ready(url), 30, "Prometheus is ready")
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
