"""The configuration: what is refused, in which words, and what a change of it reaches."""

import string
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from tta_daemon.control import reference
from tta_daemon.control.config import Config, Reach, changes, declared, load, reaches, revealed
from tta_daemon.control.faults import ConfigRefused, Fault, faults_of
from tta_daemon.control.toml import document, written
from tta_daemon.errors import ConfigError

ROOT = Path(__file__).parents[2]
PATHS = [path for path, _ in declared(Config)]


def refused(path, environ=None):
    with pytest.raises(ConfigRefused) as caught:
        load(path, environ or {})
    return caught.value


def faults_of_file(path):
    try:
        load(path, {})
    except ConfigRefused as refusal:
        return refusal.faults
    return ()


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("config.toml", reference.config_toml),
        ("docs/configuration.md", reference.configuration_page),
        ("docs/metrics.md", reference.metrics_page),
    ],
)
def test_the_references_are_current(name, page):
    assert (ROOT / name).read_text() == page(), "run `make reference`"


def test_the_annotated_file_says_every_setting_at_its_default():
    assert load(ROOT / "config.toml", {}).masked() == Config().masked()
    said = tomllib.loads((ROOT / "config.toml").read_text())
    for path in PATHS:
        table = said
        for name in path.split("."):
            assert name in table, path
            table = table[name]


def test_the_schema_knows_the_annotated_file_and_what_is_wrong():
    schema = jsonschema.Draft202012Validator(reference.schema())
    assert not list(schema.iter_errors(tomllib.loads((ROOT / "config.toml").read_text())))
    for text in (
        "[batch]\nsise = 8",
        "[batch]\nsize = 0",
        '[adapt]\nmethod = "tnet"',
        "[adapt.options]\nrestore_rate = 0.1",
        '[adapt]\nmethod = "cotta"\n[adapt.options]\nrestore_rate = 2.0',
        "[model]\nstd = [1.0, 1.0]",
    ):
        assert len(list(schema.iter_errors(tomllib.loads(text)))) == 1, text
    for text in ("", '[adapt]\nmethod = "cotta"\n[adapt.options]\nrestore_rate = 0.1', "[adapt.options]\nlr = 0.1"):
        assert not list(schema.iter_errors(tomllib.loads(text))), text


def test_an_empty_file_is_the_defaults(file):
    assert load(file(""), {}) == Config()


@pytest.mark.parametrize("path", PATHS)
def test_every_setting_explains_itself(path):
    field = dict(declared(Config))[path]
    assert field.description.endswith(".")
    assert len(field.description) <= 90
    assert Reach(field.json_schema_extra["reach"])


BAD = [
    ('[kafka]\nbootstrap_server = ["a"]', "kafka.bootstrap_server", "no such setting", "mean bootstrap_servers?"),
    ('[kafak]\ngroup_id = "a"', "kafak", "no such setting", "mean kafka?"),
    ('[kafka.securty]\nusername = "a"', "kafka.securty", "no such setting", "mean security?"),
    ('[log]\ncolour = "red"', "log.colour", "no such setting", "level, format"),
    ('[batch]\nsize = "64"', "batch.size", "'64' is not a whole number", "size = 64"),
    ("[batch]\nsize = 64.5", "batch.size", "64.5 is not a whole number", "size = 64"),
    ("[batch]\nsize = true", "batch.size", "True is not a whole number", "size = 64"),
    ("[batch]\nsize = 0", "batch.size", "0 is not at least 1", "size = 64"),
    ("[batch]\npatience_s = nan", "batch.patience_s", "nan is", "patience_s = 0.2"),
    ("[limits]\ndrain_s = inf", "limits.drain_s", "inf is", "drain_s = 30.0"),
    ("[adapt]\nbudget = 1.5", "adapt.budget", "1.5 is not at most 1", "budget = 1.0"),
    ("[settle]\nevery_s = 0", "settle.every_s", "0 is not above 0", "every_s = 1.0"),
    ('[kafka]\nstart = "erliest"', "kafka.start", "is none of 'earliest' or 'latest'", "offsets"),
    ('[kafka]\nbootstrap_servers = "a:9092"', "kafka.bootstrap_servers", "is not a list", '["localhost:9092"]'),
    ("[kafka]\nbootstrap_servers = []", "kafka.bootstrap_servers", "is too short", '["localhost:9092"]'),
    ("[kafka]\nbootstrap_servers = [9092]", "kafka.bootstrap_servers[0]", "9092 is not text", '["localhost:9092"]'),
    ('[kafka]\ninput_topic = ""', "kafka.input_topic", "is empty", "Topic"),
    ('[kafka]\nconnect_headers = "no"', "kafka.connect_headers", "is neither true nor false", "false"),
    ("kafka = 5", "kafka", "5 is not a table", "[kafka]"),
    ("[model]\nweights = 5", "model.weights", "5 is not a path", "safetensors"),
    ('[model]\nfactory = "resnet"', "model.factory", "'resnet' is not of the right form", "package.module:function"),
    ("[model]\nmean = [0.5, 0.5]", "model.mean[2]", "is too short", "[0.0, 0.0, 0.0]"),
    ("[model]\ninput_size = [0, 32]", "model.input_size", "[0, 32] is no size", "[224, 224]"),
    ("[model]\nstd = [1.0, 0.0, 1.0]", "model.std", "0 for green", "divided"),
    ("[model]\narguments = 5", "model.arguments", "5 is not a table", "{}"),
    ('[adapt]\nmethod = "tnet"', "adapt.method", "'tnet'", "mean tent?"),
    ("[adapt.options]\nlearning_rate = 1", "adapt.options.learning_rate", "tent has no such option", "lr"),
    ("[adapt.options]\nrestore_rate = 0.1", "adapt.options.restore_rate", "tent has no such option", "cotta, petal"),
    ("[adapt.options]\nlr = -1.0", "adapt.options.lr", "greater than or equal to 0", "Step size"),
    ('[adapt.options]\nlr = "fast"', "adapt.options.lr", "'fast'", "Step size"),
    ('[adapt.options]\noptimizer = "sdg"', "adapt.options.optimizer", "'adam' or 'sgd'", "descends"),
    ("[settle]\ntimeout_s = 300", "settle.timeout_s", "not below kafka.max_poll_interval_s", "lower"),
    ("[kafka]\nsession_timeout_s = 400", "kafka.session_timeout_s", "above kafka.max_poll_interval_s", "lower"),
    ("[limits]\nwaiting_images = 10", "batch.size", "never gather", "limits.waiting_images"),
    ("[batch]\nsize = 8", "adapt.learn_from", "8 images", "lower it"),
    ('[kafka]\noutput_topic = "images"', "kafka.output_topic", "is also kafka.input_topic", "own topic"),
    ('[kafka]\nlabels_topic = "images-dlq"', "kafka.labels_topic", "is also kafka.dead_letter_topic", "own topic"),
    ('[kafka]\ndelivery = "exactly_once"', "kafka.transactional_id", "this replica alone", "GROUP_INSTANCE_ID"),
    ('[checkpoint]\nkind = "file"', "checkpoint.folder", "needs a folder", "outlives"),
    ('[checkpoint]\nkind = "kafka"', "kafka.group_instance_id", "the state of this replica", "GROUP_INSTANCE_ID"),
    (
        '[kafka]\ngroup_instance_id = "a"\n[checkpoint]\nkind = "kafka"\ntopic = "images"',
        "checkpoint.topic",
        "also kafka.input_topic",
        "own topic",
    ),
    ('[kafka.security]\nca_file = "a"', "kafka.security.ca_file", "nothing is encrypted", '"SSL"'),
    ('[kafka.security]\nusername = "a"', "kafka.security.username", "nobody logs in", "SASL_SSL"),
    ('[kafka.security]\nprotocol = "SSL"\ncert_file = "a"', "kafka.security.key_file", "come together", "both or none"),
    ('[kafka.security]\nprotocol = "SASL_SSL"', "kafka.security.mechanism", "needs a mechanism", "SCRAM"),
    ("[http]\nport = 70000", "http.port", "70000 is not at most 65535", "any free one"),
    ("[http]\nlifecycle = true", "http.token", "needs a token", "TTA_HTTP__TOKEN"),
    ('[http]\ntoken = "a"\ntoken_file = "b"', "http.token", "token_file is given too", "one of them"),
]


@pytest.mark.parametrize(("text", "path", "message", "remedy"), BAD, ids=[row[1] for row in BAD])
def test_a_bad_setting_is_named_with_its_remedy(file, text, path, message, remedy):
    (fault,) = refused(file(text)).faults
    assert fault.path == path
    assert message in fault.message
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    ("mechanism", "lacking"),
    [
        ("PLAIN", {"username", "password"}),
        ("OAUTHBEARER", {"oauth_token_file"}),
        ("SCRAM-SHA-512", {"username", "password"}),
    ],
)
def test_a_login_lacks_what_its_mechanism_needs(file, mechanism, lacking):
    text = f'[kafka.security]\nprotocol = "SASL_SSL"\nmechanism = "{mechanism}"'
    assert {fault.path for fault in refused(file(text)).faults} == {f"kafka.security.{name}" for name in lacking}


def test_every_fault_is_reported_at_once_each_with_its_line(file):
    text = '[batch]\nsize = "a"\n\n[adapt]\nmethod = "nonsense"\nevery = 0\n[adapt.options]\nx = 1\n[logs]\n'
    faults = refused(file(text), {"TTA_HTTP__PORT": "many", "TTA_HTPP__PORT": "1"}).faults
    assert {(fault.path, fault.where) for fault in faults} == {
        ("batch.size", "config.toml, line 2"),
        ("adapt.method", "config.toml, line 5"),
        ("adapt.every", "config.toml, line 6"),
        ("logs", "config.toml, line 9"),
        ("http.port", "$TTA_HTTP__PORT"),
        ("htpp.port", "$TTA_HTPP__PORT"),
    }


UNREADABLE = {
    "syntax": (b"[kafka]\ninput_topic = images\n", "line 2, column 15", "quotes"),
    "cut short": (b'[kafka]\ninput_topic = "ima', "line 2", "to the end"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "line 1, column 1 is not UTF-8", "right file"),
    "not all text": (b"[log]\n# \xff\n", "line 2, column 3 is not UTF-8", "right file"),
    "huge": (b"#" * (2 << 20), "larger than 1 MiB", "right file"),
    "nested": (b"a = " + b"[" * 100_000, "", ""),
    "nul": (b"\x00" * 100, "line 1", ""),
    "table twice": (b"[log]\n[log]\n", "line 2", "once"),
    "setting twice": (b"[log]\nlevel = 'info'\nlevel = 'info'\n", "line 3", "once"),
}


@pytest.mark.parametrize(("content", "message", "remedy"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_a_configuration_is_refused_in_words(file, content, message, remedy):
    (fault,) = refused(file(content)).faults
    assert fault.path.endswith("config.toml")
    assert message in fault.message
    assert remedy in fault.remedy


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "No such file" in str(refused(tmp_path / "absent.toml"))
    assert "directory" in str(refused(tmp_path))


def test_the_environment_wins_over_the_file(file):
    path = file('[batch]\nsize = 32\n[kafka]\ngroup_id = "file"')
    environ = {
        "TTA_BATCH__SIZE": "48",
        "TTA_KAFKA__BOOTSTRAP_SERVERS": "a:9092, b:9092",
        "TTA_KAFKA__CLIENT_ID": "7",
        "TTA_KAFKA__CONNECT_HEADERS": "true",
        "TTA_KAFKA__SECURITY__CHECK_HOSTNAME": "false",
        "TTA_MODEL__MEAN": "0.1,0.2,0.3",
        "TTA_MODEL__LABELS": '["a, b", "c"]',
        "TTA_MODEL__ARGUMENTS": '{"depth": 20}',
        "TTA_MODEL__ARGUMENTS__WIDTH": "2",
        "TTA_ADAPT__OPTIONS__LR": "0.5",
        "TTA_ADAPT__OPTIONS__OPTIMIZER": "sgd",
        "TTA_DAEMON_PORT": "tcp://10.0.0.1:9464",  # as Kubernetes makes up for a service called tta-daemon
    }
    config = load(path, environ)
    assert (config.batch.size, config.kafka.group_id, config.kafka.client_id) == (48, "file", "7")
    assert config.kafka.bootstrap_servers == ("a:9092", "b:9092")
    assert config.kafka.connect_headers
    assert not config.kafka.security.check_hostname
    assert config.model.mean == (0.1, 0.2, 0.3)
    assert config.model.labels == ("a, b", "c")
    assert config.model.arguments == {"depth": 20, "width": 2}
    assert (config.adapt.chosen().lr, config.adapt.chosen().optimizer) == (0.5, "sgd")


@pytest.mark.parametrize(
    ("variable", "message", "remedy"),
    [
        ("TTA_KAFKA__GROUPID", "no such setting", "did you mean TTA_KAFKA__GROUP_ID?"),
        ("TTA_KAFAK__GROUP_ID", "no such setting", "did you mean TTA_KAFKA__GROUP_ID?"),
        ("TTA_KAFKA__SECURITY", "whole section", "one setting"),
        ("TTA_LOG__ZZZ", "no such setting", "TTA_LOG__LEVEL, TTA_LOG__FORMAT"),
        ("TTA___", "no such setting", ""),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(file, variable, message, remedy):
    (fault,) = refused(file(""), {variable: "x"}).faults
    assert message in fault.message
    assert remedy in fault.remedy
    assert fault.where == f"${variable}"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TTA_MODEL__ARGUMENTS", "depth=20", "is not a table"),
        ("TTA_MODEL__LABELS", '["cat", ', "is not a list"),
        ("TTA_MODEL__MEAN", "0.1, x, 0.3", "'x' is not a number"),
        ("TTA_KAFKA__CONNECT_HEADERS", "perhaps", "neither true nor false"),
        ("TTA_ADAPT__OPTIONS__LR", "fast", "'fast'"),
        ("TTA_BATCH__SIZE__X", "1", "no such setting"),
    ],
)
def test_a_variable_of_the_wrong_kind_is_named(file, variable, value, message):
    (fault,) = refused(file(""), {variable: value}).faults
    assert message in fault.message
    assert fault.where == f"${variable}"


def test_a_variable_cannot_mend_what_is_no_table(file):
    (fault,) = refused(file("kafka = 5"), {"TTA_KAFKA__GROUP_ID": "a"}).faults
    assert fault.message == "5 is not a table"


def test_relative_paths_are_of_the_files_folder(file, tmp_path, monkeypatch):
    path = file('[model]\nweights = "net.pt"')
    monkeypatch.chdir(tmp_path)
    assert load(Path("config.toml"), {}).model.weights == tmp_path / "net.pt"
    assert load(path, {"TTA_MODEL__WEIGHTS": "/abs/net.pt"}).model.weights == Path("/abs/net.pt")


SECRET = "hunter2-correct-horse"  # noqa: S105 - the one that must not be shown


def test_secrets_are_shown_nowhere(file):
    login = f'[kafka.security]\nprotocol = "SASL_SSL"\nmechanism = "PLAIN"\nusername = "u"\npassword = "{SECRET}"\n'
    config = load(file(login), {"TTA_HTTP__TOKEN": SECRET})
    shown = [repr(config), str(config.masked()), document(config.masked()), config.model_dump_json()]
    shown += [str(changes(Config(), config)), str(reference.differing(config)), config.digest]
    shown += [str(refused(file(login + "[batch]\nsize = 0"))), str(refused(file(login + f"password = {SECRET!r}")))]
    shown += [str(refused(file(f'[kafka.security]\npassword = ["{SECRET}"]')))]
    assert not [text for text in shown if SECRET in text]
    assert config.kafka.security.password.get_secret_value() == SECRET


def test_a_secret_comes_from_its_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    assert revealed(SecretStr(""), path, "http.token") == SECRET
    assert revealed(SecretStr(SECRET), None, "http.token") == SECRET
    with pytest.raises(ConfigError, match=r"http\.token_file: cannot read .*No such file"):
        revealed(SecretStr(""), tmp_path / "absent", "http.token")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        revealed(SecretStr(""), path, "http.token")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Config().batch.size = 5


def test_the_digest_changes_when_a_setting_does(file):
    digests = {load(file(text), {}).digest for text in ("", "[batch]\nsize = 65", "[adapt.options]\nlr = 0.5")}
    assert len(digests) == 3
    assert load(file("[batch]\nsize = 64"), {}).digest == Config().digest


def test_names_that_are_derived(file):
    kafka = load(file('[kafka]\ngroup_instance_id = "pod-0"\ndelivery = "exactly_once"'), {}).kafka
    assert (kafka.dead_letters, kafka.transaction_name) == ("images-dlq", "tta-daemon-pod-0")


def test_every_setting_has_a_reach_and_the_methods_options_too():
    known = reaches("tent")
    assert set(PATHS) <= set(known)
    assert known["kafka.bootstrap_servers"] is Reach.RESTART
    assert known["adapt.method"] is Reach.REBUILD
    assert known["adapt.options.lr"] is Reach.LIVE
    assert known["adapt.options.optimizer"] is Reach.REBUILD


def test_changes_say_what_differs_and_how_far_it_reaches(file):
    old = load(file("[adapt.options]\nlr = 0.1"), {})
    new = load(file('[adapt.options]\nlr = 0.2\n[kafka]\ngroup_id = "b"\n[http]\ntoken = "x"'), {})
    found = [(c.path, c.old, c.new, c.reach) for c in changes(old, new)]
    assert found == [
        ("kafka.group_id", "tta-daemon", "b", Reach.RESTART),
        ("adapt.options.lr", 0.1, 0.2, Reach.LIVE),
        ("http.token", "", "********", Reach.LIVE),
    ]
    assert changes(old, old) == []


def test_another_methods_options_are_rebuilt_with_it(file):
    old, new = load(file(""), {}), load(file('[adapt]\nmethod = "norm"'), {})
    assert {change.reach for change in changes(old, new)} == {Reach.REBUILD}
    assert {"adapt.method", "adapt.options.lr", "adapt.options.mode"} <= {change.path for change in changes(old, new)}


def test_one_fault_is_an_error_too():
    error = ConfigError("model.weights", "is gone", "look for it")
    assert faults_of(error) == (Fault("model.weights", "is gone", "look for it"),)
    assert isinstance(ConfigRefused([Fault("a", "b")]), ConfigError)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*PATHS, "adapt.options.lr", "adapt.options.nonsense", "kafka", "nonsense"]), value=VALUES)
def test_whatever_a_setting_is_given_it_is_taken_or_refused_by_name(file, path, value):
    *tables, name = path.split(".")
    text = f"[{'.'.join(tables)}]\n" if tables else ""
    faults = faults_of_file(file(f"{text}{name} = {written(value)}\n".encode("utf-8", "surrogatepass")))
    assert all(fault.path and fault.message for fault in faults)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_whatever_a_file_holds_it_is_taken_or_refused(file, content):
    assert all(fault.path and fault.message for fault in faults_of_file(file(content)))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)), max_size=4
    )
)
def test_written_toml_is_read_back_as_it_was(tables):
    assert tomllib.loads(document(tables)) == tables
