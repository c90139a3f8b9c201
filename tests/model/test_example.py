"""The example service, as its users start it: what is published changes its answers, without a restart."""

import io
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import images
from typer.testing import CliRunner
from world import Memory, config, pictures

from tta_daemon.cli import app
from tta_daemon.control.toml import document
from tta_daemon.model.outlets import FolderOutlet
from tta_daemon.model.publish import Publisher

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "service.py"
WITHIN_S = 2.0


@pytest.fixture
def ask(tmp_path):
    """The service on an open model, asked about images."""
    (tmp_path / "config.toml").write_text(document(config().masked()))
    done = CliRunner().invoke(
        app, ["export", "-c", str(tmp_path / "config.toml"), "--open", "-o", str(tmp_path / "m.onnx")]
    )
    assert done.exit_code == 0, done.output
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "m.onnx"), str(tmp_path / "published"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        address = service.stdout.readline().split()[-1]
        assert address.startswith("http"), address

        def ask(seen):
            body = io.BytesIO()
            np.save(body, seen.numpy())
            with urllib.request.urlopen(address, body.getvalue(), timeout=10) as answer:  # noqa: S310 - our own
                return json.load(answer)

        yield ask
        service.terminate()


def test_its_answers_change_within_two_seconds_of_a_publication_and_back(ask, tmp_path):
    world = Memory(config())
    outlet = FolderOutlet(tmp_path / "published", ("onnx_adapter",), 3)
    world.daemon.publisher = Publisher([outlet], 1000.0, world.metrics)
    seen = images(8, seed=3)
    before = ask(seen)
    assert before["version"] is None
    deployed = world.daemon.deployed.classifier(seen)
    torch.testing.assert_close(torch.tensor(before["logits"]), deployed, rtol=1e-3, atol=1e-3)

    world.send(pictures(8, seed=3))
    world.run_dry(disconnect=False)
    world.daemon.publisher.close()
    published = time.monotonic()
    after = until(lambda: (said := ask(seen))["logits"] != before["logits"] and said, published + WITHIN_S)
    assert after["version"] == outlet.latest("")["version"]
    learned = world.daemon.learner.adapter.predict(seen)
    torch.testing.assert_close(torch.tensor(after["logits"]), learned, rtol=0.05, atol=0.05)

    world.daemon.orders.reset()
    world.daemon.publisher.close()
    until(lambda: ask(seen)["logits"] == before["logits"], time.monotonic() + WITHIN_S)
    world.daemon.disconnect()


def until(condition, deadline):
    """Wait for a condition; its value."""
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    return value
