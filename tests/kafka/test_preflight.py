"""What `tta-daemon check` finds when it tries the world."""

from pathlib import Path

import pytest

from tta_daemon.control.config import load
from tta_daemon.control.preflight import faults

pytestmark = pytest.mark.kafka


@pytest.fixture
def config(broker, tmp_path):
    topic = broker.topic()
    broker.create(f"{topic}-answers")

    def write(extra=""):
        path = tmp_path / "config.toml"
        path.write_text(
            f'[kafka]\nbootstrap_servers = ["{broker.bootstrap}"]\ninput_topic = "{topic}"\n'
            f'output_topic = "{topic}-answers"\n{extra}\n[model]\nfactory = "world:network"\ninput_size = [8, 8]\n'
        )
        return load(path, {})

    return write


def test_a_topic_that_is_not_there_is_named(broker, config):
    (fault,) = faults(config())
    assert fault.path == "kafka.dead_letter_topic"
    assert fault.message.endswith("-dlq'")


def test_nothing_is_found_where_nothing_is_wrong(broker, config):
    broker.create(f"{config().kafka.input_topic}-dlq")
    assert list(faults(config())) == []


def test_a_folder_that_cannot_be_written_to_is_named(broker, config, tmp_path):
    broker.create(f"{config().kafka.input_topic}-dlq")
    file = tmp_path / "file"
    file.touch()
    (fault,) = faults(config(f'[checkpoint]\nkind = "file"\nfolder = "{file / "state"}"'))
    assert fault.path == "checkpoint.folder"
    assert str(file) in fault.message


def test_a_folder_that_will_be_made_is_no_fault_and_is_not_made_yet(broker, config, tmp_path):
    broker.create(f"{config().kafka.input_topic}-dlq")
    folder = tmp_path / "a" / "b"
    assert list(faults(config(f'[checkpoint]\nkind = "file"\nfolder = "{folder}"'))) == []
    assert not folder.parent.exists()


def test_a_missing_secret_file_is_named(config):
    security = 'protocol = "SASL_PLAINTEXT"\nmechanism = "PLAIN"\nusername = "u"\npassword_file = "absent"'
    (fault,) = faults(config(f"[kafka.security]\n{security}"))
    assert fault.path == "kafka.security.password_file"
    assert str(Path("absent")) in fault.message
