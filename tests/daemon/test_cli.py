"""The command line: exit codes, words, signals."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from io import StringIO

import pytest
import structlog
from typer.testing import CliRunner

from tta_daemon.cli import app
from tta_daemon.control import logs
from tta_daemon.control.sections import Http, Log
from tta_daemon.control.web.board import Board
from tta_daemon.control.web.server import Server
from tta_daemon.watch.metrics import Metrics


def call(*words, **environ):
    return CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb", **environ}).invoke(app, list(words))


COMMANDS = [
    [],
    ["run"],
    ["check"],
    ["demo"],
    ["produce"],
    ["healthcheck"],
    ["status"],
    ["dead-letters"],
    ["config", "show"],
    ["config", "diff"],
]


@pytest.mark.parametrize("command", [*COMMANDS, ["config", "diff"], ["config", "schema"]], ids=" ".join)
def test_help_has_an_example(command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "tta-daemon" in result.stdout.split("Options")[0].split("Usage")[1]


def test_help_comes_without_the_heavy_modules():
    code = (
        "import sys, tta_daemon.cli; print([m for m in ('torch', 'kafka', 'pydantic', 'adapters') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"


def test_version():
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("tta-daemon ")


@pytest.mark.parametrize("words", [["nonsense"], ["run"], ["check"], ["demo", "--seed", "x"]], ids=" ".join)
def test_wrong_usage_exits_with_2(words):
    assert call(*words).exit_code == 2


def test_a_good_file_is_called_so(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[batch]\nsize = 32\n")
    result = call("check", "--no-environment", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "all is well with the settings" in result.stdout


@pytest.mark.parametrize("command", [["check"], ["run", "-c"], ["config", "show"]], ids=" ".join)
def test_a_bad_file_exits_with_78_and_says_everything(tmp_path, command):
    file = tmp_path / "config.toml"
    file.write_text("[batch]\nsize = 0\nsze = 1\n")
    result = call(*command, str(file))
    assert result.exit_code == 78
    assert "config.toml, line 2: batch.size: 0 is not at least 1" in result.stderr
    assert "batch.sze: there is no such setting\n    did you mean size?" in result.stderr


def test_the_environment_has_its_say(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("")
    assert call("check", "--no-environment", str(file), TTA_BATCH__SIZE="0").exit_code == 78


def test_check_tries_the_world(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    file = tmp_path / "config.toml"
    file.write_text(f'[kafka]\nbootstrap_servers = ["127.0.0.1:{port}"]\n[model]\nfactory = "no.such.module:net"\n')
    result = call("check", str(file))
    assert result.exit_code == 78
    assert "model.factory: cannot import no.such.module" in result.stderr
    assert "kafka.bootstrap_servers: no broker answered" in result.stderr


def test_show_masks_and_reads_back(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[batch]\nsize = 32\n[http]\ntoken = "open sesame"\n')
    short, whole = call("config", "show", str(file)).stdout, call("config", "show", "--resolved", str(file)).stdout
    assert short == '[batch]\nsize = 32\n\n[http]\ntoken = "********"\n'
    assert "open sesame" not in whole
    file.write_text(whole)
    assert call("config", "show", "--resolved", str(file)).stdout == whole


def test_diff_says_what_a_reload_would_do(tmp_path):
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text("[batch]\nsize = 32\n")
    new.write_text('[kafka]\ngroup_id = "b"\n')
    assert call("config", "diff", str(old), str(new)).stdout.splitlines() == [
        'restart  kafka.group_id = "tta-daemon" -> "b"',
        "live     batch.size = 32 -> 64",
    ]
    assert call("config", "diff", str(old), str(old)).stdout == "nothing would change\n"


def test_the_schema_is_json_and_closed():
    schema = json.loads(call("config", "schema").stdout)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Batch"]["properties"]["size"]["reach"] == "live"


@pytest.fixture
def server():
    server = Server(Http(port=0), Board(), Metrics().registry)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def test_asking_a_running_daemon(server):
    healthy = call("healthcheck", "--url", server)
    assert (healthy.exit_code, healthy.stdout) == (0, "starting\n")
    assert "readiness                        starting" in call("status", "--url", server).stdout
    assert json.loads(call("status", "--json", TTA_URL=server).stdout)["ready"] is False


@pytest.mark.parametrize("command", ["healthcheck", "status"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "file:///etc/passwd", "http://[", "127.0.0.1"])
def test_asking_nobody_exits_with_1(command, url):
    result = call(command, "--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert url in result.stderr


STUB = """
import contextlib, os, sys, threading, types
from tta_daemon.bell import Bell
from tta_daemon.errors import ConfigError, DeliveryError
class Daemon:
    asked = Bell()
    def run(self):
        print("running", flush=True)
        {run}
    def stop(self):
        os.write(1, b"stopping\\n")  # a handler must not print: it may have interrupted just that
        self.asked.set()
@contextlib.contextmanager
def assemble(config, path, *, fresh_state):
    {assemble}
    yield Daemon(), types.SimpleNamespace(ask=lambda: os.write(1, b"asked\\n"))
sys.modules["tta_daemon.assemble"] = types.SimpleNamespace(assemble=assemble)
sys.argv = ["tta-daemon", "run", "--config", {file!r}]
from tta_daemon.cli import main
main()
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def run(run="self.asked.wait(600)", assemble="pass", stdin=None):
        file = tmp_path / "config.toml"
        file.write_text("")
        code = textwrap.dedent(STUB).format(run=run, assemble=assemble, file=str(file))
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(start, number):
    daemon = start()
    assert daemon.stdout.readline() == "running\n"
    daemon.send_signal(number)
    out, err = daemon.communicate(timeout=60)
    assert (daemon.returncode, out, err) == (0, "stopping\n", "")


def test_a_second_signal_ends_it_at_once(start):
    daemon = start(run="threading.Event().wait()")
    assert daemon.stdout.readline() == "running\n"
    daemon.send_signal(signal.SIGINT)
    assert daemon.stdout.readline() == "stopping\n"
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait(timeout=60) == 130


def test_a_hangup_is_a_reload_and_one_before_there_is_a_daemon_is_harmless(start):
    daemon = start(assemble='print("loading", flush=True); sys.stdin.readline()', stdin=subprocess.PIPE)
    assert daemon.stdout.readline() == "loading\n"
    daemon.send_signal(signal.SIGHUP)
    daemon.stdin.write("\n")
    daemon.stdin.flush()
    assert daemon.stdout.readline() == "running\n"
    daemon.send_signal(signal.SIGHUP)
    assert daemon.stdout.readline() == "asked\n"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=60) == 0


def test_a_signal_before_there_is_a_daemon_ends_the_start(start):
    daemon = start(assemble='print("loading", flush=True); threading.Event().wait()')
    assert daemon.stdout.readline() == "loading\n"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.communicate(timeout=60) == ("", "")
    assert daemon.returncode == 0


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ('raise DeliveryError("the broker is gone")', 1, "DeliveryError: the broker is gone"),
        ("raise ZeroDivisionError", 1, "Traceback"),
        ('raise ConfigError("http.port", "is in use")', 78, "http.port: is in use"),
    ],
)
def test_what_goes_wrong_decides_the_exit_code(start, fault, code, words):
    daemon = start(run=fault)
    out, err = daemon.communicate(timeout=60)
    assert daemon.returncode == code
    assert words in out + err


@pytest.fixture
def log():
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = StringIO()

    def configure(**settings):
        logs.configure(Log(**settings), stream)
        return stream

    yield configure
    root.handlers, root.level = before
    structlog.reset_defaults()


def test_a_machine_reads_json(log):
    stream = log(format="auto")
    structlog.get_logger("tta_daemon.daemon").info("answered", records=3, offset=17)
    logging.getLogger("kafka.x").error("broker %s is gone", "a:9092")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["message"], ours["records"], ours["level"], ours["logger"]) == (
        "answered",
        3,
        "info",
        "tta_daemon.daemon",
    )
    assert (theirs["message"], theirs["level"], theirs["logger"]) == ("broker a:9092 is gone", "error", "kafka.x")
    assert ours["timestamp"].endswith("Z")


def test_a_person_reads_lines(log):
    stream = log(format="console")
    structlog.get_logger("tta_daemon").info("answered", records=3)
    assert "answered" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_the_level_can_change_while_it_runs(log):
    stream = log(level="warning")
    logger = structlog.get_logger("tta_daemon")
    logger.info("quiet")
    log(level="info")
    logger.info("heard")
    assert "quiet" not in stream.getvalue()
    assert "heard" in stream.getvalue()


def fail(value):
    raise ValueError("broken", len(value))


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_do_not_show_local_variables(log, form):
    stream = log(format=form)
    try:
        fail(b"record " * 3)
    except ValueError:
        structlog.get_logger("tta_daemon").exception("failed")
    assert "broken" in stream.getvalue()
    assert "record record" not in stream.getvalue()


def test_repeated_warnings_are_held_back_and_counted(log):
    now = [0.0]
    stream = log(format="json")
    root = logging.getLogger()
    root.handlers[0].filters = [logs.Repeats(every_s=10.0, clock=lambda: now[0])]
    logger = structlog.get_logger("tta_daemon")
    for _ in range(5):
        logger.warning("no broker", attempt=1)
        logger.info("answered")
    now[0] = 11.0
    logger.warning("no broker", attempt=2)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(event["message"] == "answered" for event in events) == 5
    assert [event.get("held_back") for event in events if event["message"] == "no broker"] == [None, 4]


def test_errors_of_libraries_are_held_back_and_ours_are_not(log):
    stream = log(format="json")
    for _ in range(3):
        logging.getLogger("kafka.net").error("node %s is away", 1)
        structlog.get_logger("tta_daemon").error("reload refused")
    events = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert events == ["node 1 is away", *["reload refused"] * 3]


def test_messages_that_differ_in_numbers_alone_are_repeats(log):
    now = [0.0]
    stream = log(format="json")
    logging.getLogger().handlers[0].filters = [logs.Repeats(every_s=10.0, clock=lambda: now[0])]
    for place in (1, 2, 3):
        now[0] += 5.0
        logging.getLogger("kafka.net").warning(f"task <0xa{place}f> ran for 0.{place} s")  # noqa: G004 - as kafka does
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["message"], event.get("held_back")) for event in events] == [
        ("task <0xa1f> ran for 0.1 s", None),
        ("task <0xa3f> ran for 0.3 s", 1),
    ]


def test_threads_may_all_log(log):
    stream = log(format="json")
    logger = structlog.get_logger("tta_daemon")
    threads = [threading.Thread(target=lambda: [logger.info("x") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 200


NOTES = {
    "at the defaults": ("", ["adapt.learn_from", "80 images a second", "input.resize"]),
    "cameras": ('[streams]\nby = "key"\n[batch]\npatience_s = 4\n', ["a key is learned from while it brings 4 images"]),
    "a settlement cuts": (
        """
        streams.by = "key"
        batch.patience_s = 4
        settle.every_s = 0.1
        kafka = {delivery = "exactly_once", transactional_id = "t"}
        """,
        ["80 images", "twice settle.every_s"],
    ),
    "nobody waits": ("[batch]\npatience_s = 0\n", ["waits for nobody", "16 images"]),
    "no time to learn": ("[adapt]\nbudget = 0\n", ["adapt.budget", "nothing is ever learned"]),
    "no step": ("[adapt]\noptions = {lr = 0.0}\n", ["adapt.options.lr"]),
    "batches of one": ("[batch]\nsize = 1\n[adapt]\nlearn_from = 1\n", ["batch.size", "2 images or more"]),
    "no guard": ('[guard]\nmode = "off"\n', ["guard.mode"]),
    "nothing kept": ('[streams]\nby = "key"\nmax_resident = 2\n', ["beyond 2 streams"]),
}


@pytest.mark.parametrize(("text", "said"), NOTES.values(), ids=NOTES)
def test_what_is_seldom_meant_is_said_and_not_refused(tmp_path, text, said):
    file = tmp_path / "config.toml"
    file.write_text(text)
    result = call("check", "--no-environment", str(file))
    assert result.exit_code == 0
    assert all(words in result.stdout for words in said)


def test_who_learns_nothing_on_purpose_is_told_nothing_of_learning(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[adapt]\nwhen = "never"\n[input]\nresize = "crop"\n')
    assert "note:" not in call("check", "--no-environment", str(file)).stdout
