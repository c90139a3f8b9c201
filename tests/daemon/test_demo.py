"""The demo: what it sends, how it keeps count, what it shows; and all of it together, as a user starts it."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console

from tta_daemon.control.config import load
from tta_daemon.control.toml import document
from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.offline import demo, malformed
from tta_daemon.offline.chart import draw
from tta_daemon.offline.moment import Moment, Pace
from tta_daemon.offline.outcome import report, summarize
from tta_daemon.offline.scans import Scans
from tta_daemon.offline.scoreboard import Scoreboard
from tta_daemon.offline.screen import Screen
from tta_daemon.offline.service import Service, ServiceFailed
from tta_daemon.offline.traffic import Junk, Photo, plan
from tta_daemon.offline.worlds import journey
from tta_daemon.stream.decode import Bounds, Decoder
from tta_daemon.stream.records import Partition, Position, Record

WAY = journey(1)


@pytest.fixture
def scans():
    chance = np.random.default_rng(0)
    return Scans(chance.integers(0, 256, (40, 28, 28, 3), dtype=np.uint8), np.arange(40) % 10)


@pytest.fixture
def board(scans):
    return Scoreboard(WAY, plan(WAY, scans, per_stretch=20, junk=20, seed=0))


def come_out(board, source_right=lambda photo: photo.stretch in {0, 6}, only=None):
    for item in board.sent[:only]:
        if isinstance(item, Junk):
            board.bury(item.id, item.reason)
        else:
            board.answer(item.id, item.label, item.label if source_right(item) else (item.label + 1) % 10)


def decoded(item):
    value, content_type = item.value()
    headers = (("id", item.id.encode()), ("content-type", content_type.encode()))
    decoder = Decoder(Bounds(size=(28, 28)))
    return decoder.decode(Record(Position(Partition("images", 0), 0), item.camera.encode(), value, headers))


def test_a_photo_arrives_as_it_was_taken(board):
    photo = next(item for item in board.sent if isinstance(item, Photo))
    sample = decoded(photo)
    assert sample.record.id == photo.id
    assert np.array_equal(sample.images[0], photo.image.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_every_kind_of_junk_is_rejected_for_its_own_reason(kind):
    junk = Junk("junk", "camera-1", kind)
    with pytest.raises(RecordRejected) as rejected:
        decoded(junk)
    assert rejected.value.reason is junk.reason


def test_junk_is_spread_over_the_stream_and_has_every_kind(board):
    places = [place for place, item in enumerate(board.sent) if isinstance(item, Junk)]
    assert len(places) == 20
    assert max(np.diff(places)) <= 2 * min(np.diff(places))
    assert {board.sent[place].kind for place in places} == set(malformed.KINDS)


def test_a_plan_repeats_with_its_seed_and_no_id_twice(scans, board):
    same = plan(WAY, scans, per_stretch=20, junk=20, seed=0)
    other = plan(WAY, scans, per_stretch=20, junk=20, seed=1)
    assert [item.value() for item in same] == [item.value() for item in board.sent]
    assert [item.value() for item in same] != [item.value() for item in other]
    assert len({item.id for item in same}) == len(same) == 160


def test_where_everything_comes_out_there_is_nothing_to_complain(board):
    come_out(board)
    assert board.complete
    assert list(board.problems()) == []
    assert board.total.adapted == 1.0
    assert board.total.source == pytest.approx(2 / 7)
    assert {world: score.source for world, score in board.domains().items()} == {
        "clear": 1.0,
        "fog": 0.0,
        "darkness": 0.0,
        "low contrast": 0.0,
        "noise": 0.0,
        "blur": 0.0,
    }


def test_whatever_disagrees_is_a_problem(board):
    photo = next(item for item in board.sent if isinstance(item, Photo))
    junk = next(item for item in board.sent if isinstance(item, Junk))
    come_out(board, only=-1)
    assert not board.complete
    assert any("should have been" in problem for problem in board.problems())
    board.answer(photo.id, 1, 1)
    board.answer("stranger", 1, 1)
    assert {f"{photo.id} came out twice", "stranger came out, but was never sent"} <= set(board.problems())
    fresh = Scoreboard(WAY, board.sent)
    fresh.bury(photo.id, Reason.UNDECODABLE)
    fresh.answer(junk.id, 1, 1)
    fresh.bury(next(i.id for i in board.sent if isinstance(i, Junk) and i is not junk), Reason.TOO_LARGE)
    words = " / ".join(fresh.strange)
    assert "a good photo, was dead-lettered" in words
    assert "was answered" in words
    assert "not for" in words
    assert fresh.came_out == 3


def test_the_course_keeps_a_change_of_the_world_a_step(board):
    come_out(board)
    place, adapted, source = board.course(window=9)
    assert len(place) == board.answered == 140
    assert set(adapted) == {1.0}
    assert list(source) == [1.0] * 20 + [0.0] * 100 + [1.0] * 20


def test_the_summary_says_what_the_board_knows(board):
    come_out(board)
    numbers = summarize(board, {'tta_accuracy_ratio{model="source",window="all"}': 0.25})
    assert json.loads(json.dumps(numbers)) == numbers
    assert (numbers["produced"], numbers["answered"], numbers["dead_lettered"]) == (160, 140, 20)
    assert numbers["accuracy"]["adapted"] == 1.0
    assert [row["domain"] for row in numbers["accuracy"]["by_domain"]] == list(board.domains())
    assert sum(row["images"] for row in numbers["accuracy"]["by_stretch"]) == 140
    assert sum(numbers["dead_letter_reasons"].values()) == 20
    assert numbers["daemon_says"] == {"source": 0.25, "adapted": None}
    text = io.StringIO()
    report(board, numbers | {"seconds": 12.0}, Console(file=text, width=80, soft_wrap=True))
    assert "160 produced, 140 answered, 20 dead-lettered: nothing lost, nothing twice" in text.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("only", [0, 40, None])
def test_a_terminal_shows_the_moment(board, width, only):
    come_out(board, only=only)
    text = io.StringIO()
    console = Console(file=text, width=width, height=50, force_terminal=True, color_system="truecolor", soft_wrap=True)
    metrics = {'tta_consumer_lag_records{partition="0",topic="images"}': 12.0, 'tta_drift_score{detector="adwin"}': 0.5}
    with Screen(console) as screen:
        screen.show(Moment(board, metrics, seconds=3.0, per_second=150.0))
    shown = text.getvalue()
    assert "The world now" in shown
    assert ("\u2580" in shown) == (only != 0)
    assert ("waiting for the first answers" in shown) == (only == 0)
    assert "drift in adwin" in shown


def test_without_a_terminal_there_are_plain_lines(board):
    come_out(board, only=50)
    text = io.StringIO()
    with Screen(Console(file=text, width=80, soft_wrap=True)) as screen:
        screen.show(Moment(board, {}, seconds=3.0, per_second=150.0))
        screen.show(Moment(board, {}, seconds=3.1, per_second=150.0))  # too soon after the first
    assert text.getvalue().count("\n") == 1
    assert "\x1b" not in text.getvalue()
    assert "150/s" in text.getvalue()


def test_the_pace_is_that_of_the_last_seconds():
    pace = Pace(over_s=4.0)
    assert pace.at(0.0, 0) == 0.0
    assert pace.at(2.0, 100) == 50.0
    assert pace.at(6.0, 900) == 200.0


def test_the_chart_is_a_picture(board, tmp_path):
    come_out(board)
    draw(board, tmp_path / "new" / "chart.png")
    with Image.open(tmp_path / "new" / "chart.png") as image:
        assert image.width > 1000
        assert len(image.convert("L").getcolors()) > 20


def test_the_daemon_accepts_the_configuration(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(document(demo.configuration("127.0.0.1:9092", 9464, demo.WEIGHTS)))
    config = load(file, {})
    assert config.kafka.delivery == "exactly_once"
    assert config.kafka.dead_letters == "images-dlq"


def test_a_daemon_that_does_not_start_is_reported_with_its_own_words(tmp_path):
    (tmp_path / "config.toml").write_text("[kafka]\nbootstrap = 1\n")
    with (
        Service(tmp_path / "config.toml", "http://127.0.0.1:9", tmp_path / "log") as service,
        pytest.raises(ServiceFailed, match=r"exit code 78(.|\n)*kafka\.bootstrap"),
    ):
        list(service.getting_ready(60))


@pytest.fixture
def started(tmp_path):
    """Start the demo as a user does; whatever is left of it at the end is a failure."""
    pytest.importorskip("noida_db", reason="the embedded broker is not installed")
    pytest.importorskip("mlxtend", reason="the demo's extra is not installed")
    command = [sys.executable, "-m", "tta_daemon.cli", "demo", "--quick"]
    family = []

    def start(*options):
        environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, text=True)
        family.append(process)
        return process

    yield start
    for process in family:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    ours = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    for process in ours:
        process.kill()
    assert not ours
    assert not list(tmp_path.glob("tta-demo-*"))


@pytest.mark.slow
@pytest.mark.kafka
def test_adapting_pays_and_every_record_comes_out_once(started, tmp_path):
    process = started("--json", str(tmp_path / "numbers.json"), "--chart", str(tmp_path / "chart.png"))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["problems"] == []
    assert numbers["produced"] == numbers["answered"] + numbers["dead_lettered"] == 2260
    assert numbers["dead_lettered"] == 20
    accuracy = numbers["accuracy"]
    assert accuracy["adapted"] >= accuracy["source"] + 0.15
    clear = next(row for row in accuracy["by_domain"] if row["domain"] == "clear")
    assert clear["adapted"] >= clear["source"] - 0.01
    assert numbers["daemon_says"]["adapted"] == pytest.approx(accuracy["adapted"], abs=1e-4)
    assert numbers["daemon_says"]["source"] == pytest.approx(accuracy["source"], abs=1e-4)
    assert (tmp_path / "chart.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, "Starting:"), (signal.SIGTERM, "It is ready")])
def test_a_signal_ends_it_and_everything_it_started(started, number, at):
    process = started()
    assert any(at in line for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted" in output
    assert len(children) >= 1
    deadline = time.monotonic() + 10
    while any(child.is_running() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
