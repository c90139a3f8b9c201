"""Settings that are right one by one and wrong together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tta_daemon.control.faults import Fault

if TYPE_CHECKING:
    from tta_daemon.control.kafka_settings import Security
    from tta_daemon.control.sections import Config


def together(config: "Config") -> Iterator[Fault]:
    """Every contradiction between settings."""
    yield from _times(config)
    yield from _sizes(config)
    yield from _model(config)
    yield from _watching(config)
    yield from _topics(config)
    yield from _delivery(config)
    yield from _checkpoint(config)
    yield from _security(config.kafka.security)
    yield from _http(config)


def _times(config: "Config") -> Iterator[Fault]:
    kafka = config.kafka
    if config.settle.timeout_s >= kafka.max_poll_interval_s:
        yield Fault(
            "settle.timeout_s",
            f"{config.settle.timeout_s:g} s is not below kafka.max_poll_interval_s ({kafka.max_poll_interval_s:g} s)",
            "the group would take our partitions in the middle of a commit; lower the one or raise the other",
        )
    if kafka.session_timeout_s > kafka.max_poll_interval_s:
        yield Fault(
            "kafka.session_timeout_s",
            f"{kafka.session_timeout_s:g} s is above kafka.max_poll_interval_s ({kafka.max_poll_interval_s:g} s)",
            "lower the one or raise the other",
        )


def _sizes(config: "Config") -> Iterator[Fault]:
    size = config.batch.size
    if size > config.limits.waiting_images:
        yield Fault(
            "batch.size",
            f"{size} images never gather where limits.waiting_images is {config.limits.waiting_images}",
            "raise limits.waiting_images to at least twice batch.size",
        )
    if config.adapt.learn_from > size:
        yield Fault(
            "adapt.learn_from",
            f"no batch of {size} images (batch.size) ever has the {config.adapt.learn_from} that learning asks for",
            'lower it, raise batch.size, or say adapt.when = "never"',
        )
    for channel, value in zip(("red", "green", "blue"), config.model.std, strict=True):
        if value <= 0:
            yield Fault("model.std", f"{value:g} for {channel} is not above 0", "images are divided by it")
    if min(config.model.input_size) < 1:
        yield Fault("model.input_size", f"{list(config.model.input_size)} is no size", "for example [224, 224]")


def _model(config: "Config") -> Iterator[Fault]:
    model = config.model
    if model.mixed_precision != "no" and model.dtype != "float32":
        message = f'"{model.mixed_precision}" is no use to a network in {model.dtype}'
        yield Fault("model.mixed_precision", message, 'say "no", or dtype = "float32"')
    if not model.artifact:
        return
    for name in ("factory", "weights", "arguments", "checkpoint_key", "strip_prefix"):
        if getattr(model, name):
            remedy = "a model comes from an artifact or from a function: give one of them"
            yield Fault(f"model.{name}", f"model.artifact is given too ({model.artifact.name})", remedy)


def _watching(config: "Config") -> Iterator[Fault]:
    if config.guard.mode != "off" and config.adapt.method != "source" and not config.watch.sample:
        yield Fault(
            "watch.sample",
            "0, but the guard compares the adapted model with the source",
            'watch a share of the batches, or say guard.mode = "off"',
        )
    if config.adapt.when == "drift" and not config.model.prior:
        yield Fault(
            "adapt.when",
            '"drift" needs model.prior: nothing else says what drift is',
            "make one with tta-daemon prepare, or learn always",
        )


def _topics(config: "Config") -> Iterator[Fault]:
    kafka = config.kafka
    seen = {kafka.input_topic: "kafka.input_topic"}
    others = {
        "kafka.output_topic": kafka.output_topic,
        "kafka.dead_letter_topic": kafka.dead_letters,
        "kafka.labels_topic": kafka.labels_topic,
        "checkpoint.topic": config.state_topic,
        "publish.topic": config.publish.topic,
    }
    for path, topic in others.items():
        if topic and topic in seen:
            yield Fault(path, f"{topic!r} is also {seen[topic]}", "give each its own topic")
        seen.setdefault(topic, path)


def _delivery(config: "Config") -> Iterator[Fault]:
    if config.kafka.delivery == "exactly_once" and not config.kafka.transaction_name:
        yield Fault(
            "kafka.transactional_id",
            'delivery = "exactly_once" needs a name that this replica alone has, and keeps when it restarts',
            "set it or kafka.group_instance_id, for example by TTA_KAFKA__GROUP_INSTANCE_ID from the name of the pod",
        )


def _checkpoint(config: "Config") -> Iterator[Fault]:
    if config.checkpoint.kind == "file" and not config.checkpoint.folder:
        yield Fault("checkpoint.folder", 'kind = "file" needs a folder', "name one that outlives a restart")
    if config.checkpoint.kind == "kafka" and config.streams.by == "none" and not config.kafka.group_instance_id:
        yield Fault(
            "kafka.group_instance_id",
            'checkpoint.kind = "kafka" needs a name for the state of this replica',
            "set it, for example by TTA_KAFKA__GROUP_INSTANCE_ID from the name of the pod",
        )


def _security(security: "Security") -> Iterator[Fault]:
    at = "kafka.security"
    for name in ("ca_file", "cert_file", "key_file"):
        if getattr(security, name) and not security.protocol.endswith("SSL"):
            yield Fault(f"{at}.{name}", f"nothing is encrypted by {security.protocol}", 'say protocol = "SSL"')
    if bool(security.cert_file) != bool(security.key_file):
        lacking = "key_file" if security.cert_file else "cert_file"
        yield Fault(f"{at}.{lacking}", "a certificate and its key come together", "give both or none")
    for name in ("password", "key_password"):
        if getattr(security, name).get_secret_value() and getattr(security, f"{name}_file"):
            yield Fault(f"{at}.{name}", f"{name}_file is given too", "give one of them")
    if security.protocol.startswith("SASL"):
        yield from _login(security, at)
    elif security.mechanism or security.username:
        needless = "mechanism" if security.mechanism else "username"
        yield Fault(f"{at}.{needless}", f"nobody logs in by {security.protocol}", 'say protocol = "SASL_SSL"')


def _login(security: "Security", at: str) -> Iterator[Fault]:
    mechanism = security.mechanism
    if not mechanism:
        yield Fault(f"{at}.mechanism", f"{security.protocol} needs a mechanism", 'for example "SCRAM-SHA-512"')
    elif mechanism == "OAUTHBEARER":
        if not security.oauth_token_file:
            yield Fault(f"{at}.oauth_token_file", "OAUTHBEARER needs a token", "name the file that holds it")
    else:
        if not security.username:
            yield Fault(f"{at}.username", f"{mechanism} needs a user name", "set it")
        if not (security.password.get_secret_value() or security.password_file):
            remedy = "set password_file, or TTA_KAFKA__SECURITY__PASSWORD"
            yield Fault(f"{at}.password", f"{mechanism} needs a password", remedy)


def _http(config: "Config") -> Iterator[Fault]:
    http = config.http
    given = bool(http.token.get_secret_value())
    if given and http.token_file:
        yield Fault("http.token", "token_file is given too", "give one of them")
    if http.lifecycle and not (given or http.token_file):
        yield Fault("http.token", "lifecycle = true needs a token", "set token_file, or TTA_HTTP__TOKEN")
