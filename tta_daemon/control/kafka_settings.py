"""Settings of the connection to Kafka."""

from typing import Literal

from tta_daemon.control.settings import RESTART, File, Secret, Section, Texts, setting

Delivery = Literal["at_least_once", "exactly_once"]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class Security(Section):
    """How the connection to the brokers is encrypted and who we say we are."""

    protocol: Protocol = setting("PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.", RESTART)
    mechanism: Mechanism = setting("", "SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.", RESTART)
    username: str = setting("", "SASL user name.", RESTART)
    password: Secret = setting("", "SASL password; better in password_file or the environment.", RESTART)
    password_file: File = setting("", "File that holds the SASL password.", RESTART)
    oauth_token_file: File = setting("", "File that holds a bearer token, read at every login.", RESTART)
    ca_file: File = setting("", "PEM file of the authorities to trust; empty: the system's.", RESTART)
    cert_file: File = setting("", "PEM file of our own certificate, for mutual TLS.", RESTART)
    key_file: File = setting("", "PEM file of the key of our own certificate.", RESTART)
    key_password: Secret = setting("", "Password of that key; better in key_password_file.", RESTART)
    key_password_file: File = setting("", "File that holds the password of that key.", RESTART)
    check_hostname: bool = setting(True, "Whether a broker's certificate must name its host.", RESTART)


class Kafka(Section):
    """Where records come from and where answers go. The clients are never rebuilt."""

    bootstrap_servers: Texts = setting(("localhost:9092",), "Brokers to ask first, host:port.", RESTART, min_length=1)
    client_id: str = setting("tta-daemon", "How brokers name us in their logs and quotas.", RESTART, min_length=1)
    group_id: str = setting(
        "tta-daemon", "Consumer group; replicas with one group share the work.", RESTART, min_length=1
    )
    group_instance_id: str = setting("", "Static membership: a name that survives a restart of this replica.", RESTART)
    input_topic: str = setting("images", "Topic of the images to answer.", RESTART, min_length=1)
    output_topic: str = setting("answers", "Topic that the answers go to.", RESTART, min_length=1)
    labels_topic: str = setting("", "Topic of labels that come later, joined by id; empty: there is none.", RESTART)
    dead_letter_topic: str = setting("", "Topic of records that cannot be answered; empty: INPUT_TOPIC-dlq.", RESTART)
    start: Literal["earliest", "latest"] = setting("earliest", "Where a group without offsets starts.", RESTART)
    delivery: Delivery = setting("at_least_once", "at_least_once, or exactly_once by transactions.", RESTART)
    transactional_id: str = setting("", "Of exactly_once, one per replica; empty: GROUP_ID-GROUP_INSTANCE_ID.", RESTART)
    max_poll_interval_s: float = setting(300.0, "Silence after which the group takes our partitions.", RESTART, gt=0)
    session_timeout_s: float = setting(
        45.0, "Missed heartbeats after which the group takes us for dead.", RESTART, gt=0
    )
    request_timeout_s: float = setting(30.0, "How long one request to a broker may take.", RESTART, ge=1, le=100)
    connect_headers: bool = setting(False, "Also write Kafka Connect's dead letter headers.", RESTART)
    security: Security = Security()

    @property
    def dead_letters(self) -> str:
        """The topic that dead letters go to."""
        return self.dead_letter_topic or f"{self.input_topic}-dlq"

    @property
    def transaction_name(self) -> str:
        """The transactional id of this replica; empty where none can be derived."""
        derived = f"{self.group_id}-{self.group_instance_id}" if self.group_instance_id else ""
        return self.transactional_id or derived
