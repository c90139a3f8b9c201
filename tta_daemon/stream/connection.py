"""How every Kafka client reaches the brokers and says who it is: one translation of ``[kafka]`` for all of them."""

from pathlib import Path
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from tta_daemon.control.config import Kafka, Security, revealed


def connection(kafka: Kafka) -> dict[str, Any]:
    """The settings that consumer, producer and admin client share, as kafka-python calls them.

    Raises:
        ConfigError: a file that holds a secret cannot be read.
    """
    return {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "client_id": kafka.client_id,
        "security_protocol": kafka.security.protocol,
        **_tls(kafka.security),
        **_sasl(kafka.security),
    }


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python is untyped
    """A bearer token that some other process keeps fresh in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def token(self) -> str:
        """The token as the file has it now."""
        return self._path.read_text(encoding="utf-8").strip()


def _tls(security: Security) -> dict[str, Any]:
    if "SSL" not in security.protocol.split("_"):
        return {}
    password = revealed(security.key_password, security.key_password_file, "kafka.security.key_password")
    return {
        "ssl_check_hostname": security.check_hostname,
        "ssl_cafile": _path(security.ca_file),
        "ssl_certfile": _path(security.cert_file),
        "ssl_keyfile": _path(security.key_file),
        "ssl_password": password or None,
    }


def _sasl(security: Security) -> dict[str, Any]:
    if not security.protocol.startswith("SASL"):
        return {}
    settings: dict[str, Any] = {"sasl_mechanism": security.mechanism}
    if security.mechanism == "OAUTHBEARER":
        if security.oauth_token_file is not None:
            settings["sasl_oauth_token_provider"] = TokenFile(security.oauth_token_file)
    else:
        settings["sasl_plain_username"] = security.username
        settings["sasl_plain_password"] = revealed(security.password, security.password_file, "kafka.security.password")
    return settings


def _path(file: Path | None) -> str | None:
    return str(file) if file is not None else None
