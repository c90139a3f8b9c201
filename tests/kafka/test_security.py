"""TLS, client certificates and SASL from the configuration file: every client of the daemon gets in, or is told why."""

import ssl

import pytest

trustme = pytest.importorskip("trustme", reason="it makes the certificates, and is not installed")

from guard import Guard  # noqa: E402

from tta_daemon.control.config import load  # noqa: E402
from tta_daemon.errors import BrokerUnreachable  # noqa: E402
from tta_daemon.stream import kafka_changelog  # noqa: E402
from tta_daemon.stream.connection import connection  # noqa: E402
from tta_daemon.stream.kafka_sink import KafkaSink  # noqa: E402
from tta_daemon.stream.kafka_source import KafkaSource  # noqa: E402
from tta_daemon.stream.kafka_tail import KafkaTail  # noqa: E402
from tta_daemon.stream.records import Message, Partition  # noqa: E402

pytestmark = pytest.mark.kafka

SECRETS = {"PLAIN": "pa55", "SCRAM-SHA-256": "pa55", "SCRAM-SHA-512": "pa55", "OAUTHBEARER": "t0ken"}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """Certificates and secrets as an operator mounts them."""
    folder = tmp_path_factory.mktemp("secrets")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client = authority.issue_cert("replica@example.org")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    for name, text in (("password", "pa55\n"), ("wrong", "nonsense\n"), ("token", "t0ken\n")):
        (folder / name).write_text(text)
    return folder


def tls(authority, *names, clients=False):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def told(broker, files, tmp_path):
    """A configuration with this security, for topics of its own."""
    topic = broker.topic()
    for suffix in ("answers", "dlq"):
        broker.create(f"{topic}-{suffix}")

    def told(guard, **security):
        lines = "".join(
            f"{name} = {str(value).lower() if value is False else repr(str(value))}\n"
            for name, value in security.items()
        )
        (files / "config.toml").write_text(
            f'[kafka]\nbootstrap_servers = ["{guard.bootstrap}"]\ninput_topic = "{topic}"\n'
            f'output_topic = "{topic}-answers"\ngroup_id = "{broker.name("g")}"\n[kafka.security]\n{lines}\n'
            '[model]\nfactory = "world:network"\ninput_size = [8, 8]\n'
        )
        return load(files / "config.toml", {}).kafka

    return told


def works(kafka, until):
    """Every kind of client that the daemon has does its work."""
    client = connection(kafka)
    sink = KafkaSink(client, transactional_id=f"{kafka.group_id}-t")
    source = KafkaSource(client, [kafka.input_topic], kafka.group_id, settings={"heartbeat_interval_ms": 200})
    tail = KafkaTail(client, kafka.input_topic, since_s=0.0)
    kafka_changelog.ensure(client, f"{kafka.group_id}-state")
    sink.send(Message(kafka.input_topic, b"k", b"pixels"))
    sink.settle(source, {}, 10.0)
    found, looked = [], []
    until(lambda: (source.changes() and None) or found.extend(source.poll(0.2, 10)) or found)
    until(lambda: looked.extend(tail.poll(0.2, 10)) or looked)
    sink.send(Message(kafka.output_topic, None, b"answer"))
    sink.settle(source, {Partition(kafka.input_topic, 0): found[0].position.offset + 1}, 10.0)
    for opened in (sink, source, tail):
        opened.close()
    assert (found[0].value, looked[0].value) == (b"pixels", b"pixels")
    answers = list(kafka_changelog.read_all(client, kafka.output_topic))
    assert [record.value for record in answers] == [b"answer"]


def refused(kafka, patience_s=2.0):
    with pytest.raises(BrokerUnreachable) as told:
        KafkaSink(connection(kafka), connect_timeout_s=patience_s)
    return str(told.value)


def test_tls_by_our_own_authority(broker, authority, files, told, until):
    with Guard(broker.bootstrap, tls=tls(authority)) as guard:
        works(told(guard, protocol="SSL", ca_file=files / "ca.pem"), until)
        assert "kafka.bootstrap_servers" in refused(told(guard, protocol="SSL", ca_file=files / "stranger.pem"))
        refused(told(guard, protocol="PLAINTEXT"))


def test_the_certificate_must_name_the_host_unless_told_otherwise(broker, authority, files, told, until):
    with Guard(broker.bootstrap, tls=tls(authority, "elsewhere.example.org")) as guard:
        refused(told(guard, protocol="SSL", ca_file=files / "ca.pem"))
        works(told(guard, protocol="SSL", ca_file=files / "ca.pem", check_hostname=False), until)


def test_mutual_tls(broker, authority, files, told, until):
    ours = {"protocol": "SSL", "ca_file": files / "ca.pem"}
    with Guard(broker.bootstrap, tls=tls(authority, clients=True)) as guard:
        refused(told(guard, **ours))
        works(told(guard, **ours, cert_file=files / "client.pem", key_file=files / "client.key"), until)


@pytest.mark.parametrize("mechanism", SECRETS)
def test_sasl_over_tls(broker, authority, files, told, until, mechanism):
    who = {"protocol": "SASL_SSL", "ca_file": files / "ca.pem", "mechanism": mechanism}
    who |= (
        {"oauth_token_file": files / "token"}
        if mechanism == "OAUTHBEARER"
        else {"username": "u", "password_file": files / "password"}
    )
    with Guard(broker.bootstrap, tls=tls(authority), mechanisms={mechanism: SECRETS[mechanism]}) as guard:
        works(told(guard, **who), until)
        assert set(guard.logins) == {mechanism}
        assert guard.refusals == []
        secret = "oauth_token_file" if mechanism == "OAUTHBEARER" else "password_file"
        assert "nonsense" not in refused(told(guard, **who | {secret: files / "wrong"}), 6.0)
        assert mechanism in guard.refusals


def test_sasl_without_tls_and_a_mechanism_that_the_broker_does_not_have(broker, files, told, until):
    who = {"protocol": "SASL_PLAINTEXT", "username": "u", "password_file": files / "password"}
    with Guard(broker.bootstrap, mechanisms={"PLAIN": "pa55"}) as guard:
        works(told(guard, **who, mechanism="PLAIN"), until)
        refused(told(guard, **who, mechanism="SCRAM-SHA-512"))
