"""What can go wrong, and what becomes of it: three kinds of error, three fates.

TtaError
    RecordRejected     the record is at fault         dead letter, and on with the next one
    ConfigError        the configuration is at fault  reload refused; at start: exit 78
    everything else    the world is at fault          log, drain, exit non-zero, be restarted
        DeliveryError      the sink could not deliver: go back to what was committed and try again
        BrokerUnreachable  no broker answered: the caller retries with backoff
        Fenced             another instance has taken over: leave at once, write nothing more
        TooManyRejected    the input topic as a whole looks wrong: stop before it drains into the dead letters
        CheckpointError    a saved state is broken or belongs to another model
        PublishError       what was learned could not be published: counted, and tried again with the next state

Foreign exceptions are mapped to these at the border where they arise.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a record was rejected: a closed set, because it becomes a metric's label."""

    EMPTY_VALUE = "empty_value"
    TOO_LARGE = "too_large"
    TOO_MANY_IMAGES = "too_many_images"
    UNKNOWN_CONTENT_TYPE = "unknown_content_type"
    UNDECODABLE = "undecodable"
    DECOMPRESSION_BOMB = "decompression_bomb"
    ANIMATED = "animated"
    PICKLED = "pickled"
    WRONG_CHANNELS = "wrong_channels"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    NON_FINITE = "non_finite"
    OUT_OF_RANGE = "out_of_range"
    UNDELIVERABLE = "undeliverable"


class TtaError(Exception):
    """The root: whatever this package raises on purpose."""


class RecordRejected(TtaError):  # noqa: N818 - named for what happened
    """One record cannot be answered; its reason and message go into the dead letter."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason
        self.message = message


class ConfigError(TtaError):
    """A setting is refused: the full path of the setting, what is wrong, and what to do about it."""

    def __init__(self, path: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {message}" + (f" ({remedy})" if remedy else ""))
        self.path = path
        self.message = message
        self.remedy = remedy


class DeliveryError(TtaError):
    """Something sent was not delivered; nothing that depends on it may be committed."""


class BrokerUnreachable(TtaError):  # noqa: N818
    """No broker answered in time at the addresses given."""


class Fenced(TtaError):  # noqa: N818
    """Another instance with our transactional id has started, and the broker obeys that one now."""


class TooManyRejected(TtaError):  # noqa: N818
    """The share of rejected records went over its limit."""


class CheckpointError(TtaError):
    """A saved state cannot be read, or is not for this model."""


class PublishError(TtaError):
    """What was learned could not be handed to whoever waits for it."""
