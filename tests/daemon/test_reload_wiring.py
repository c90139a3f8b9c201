"""What stands around the loop follows a reload too: the HTTP server, the log, torch."""

import logging

import httpx
import pytest
import structlog
import torch
from reloading import settings

from tta_daemon.assemble import assemble
from tta_daemon.control.config import load
from tta_daemon.control.slot import Result
from tta_daemon.control.toml import document
from tta_daemon.offline.broker import free_port
from tta_daemon.standing import standing


@pytest.fixture(autouse=True)
def _as_it_was():
    root = logging.getLogger()
    before = root.handlers, root.level, torch.get_num_threads()
    yield
    root.handlers, root.level = before[:2]
    torch.set_num_threads(before[2])
    structlog.reset_defaults()


def test_server_log_and_torch_follow(tmp_path):
    file, port = tmp_path / "config.toml", free_port()
    http, url = {"port": port, "token": "one"}, f"http://127.0.0.1:{port}"

    def put(**sections):
        file.write_text(document(settings(**sections)))

    put(http=http, log={"level": "info"}, model={"threads": 1})
    with assemble(load(file, {}), file) as (daemon, reloader):
        assert httpx.post(f"{url}/-/reload", timeout=60).status_code == 403
        put(http=http | {"lifecycle": True}, log={"level": "error"}, model={"threads": 2})
        assert reloader.ask().result(60).result is Result.PREPARED
        assert httpx.post(f"{url}/-/reload", timeout=60).status_code == 403
        daemon.orders.take_over()
        assert httpx.post(f"{url}/-/reload", timeout=60).status_code == 401
        assert logging.getLogger().level == logging.ERROR
        assert torch.get_num_threads() == 2
        daemon.board.publish(standing(daemon))
        assert httpx.get(f"{url}/api/status", timeout=60).json()["config"]["digest"] == load(file, {}).digest
        assert 'tta_config_reloads_total{result="applied"} 1.0' in httpx.get(f"{url}/metrics", timeout=60).text
        put(http=http | {"lifecycle": True, "stall_s": -1.0})
        assert reloader.ask().result(60).result is Result.REFUSED
        assert httpx.post(f"{url}/-/reload", timeout=60).status_code == 401
        assert "tta_config_last_reload_successful 0.0" in httpx.get(f"{url}/metrics", timeout=60).text
