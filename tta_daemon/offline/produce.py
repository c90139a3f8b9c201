"""Send the demo's digits to any broker, lap after lap through the changing worlds, and their labels a while later."""

from functools import partial
from itertools import count

from kafka.errors import KafkaError

from tta_daemon.bell import Bell
from tta_daemon.errors import BrokerUnreachable, ConfigError, TtaError
from tta_daemon.offline import scans, traffic
from tta_daemon.offline.broker import create_topics
from tta_daemon.offline.camera import Cameras
from tta_daemon.offline.worlds import journey
from tta_daemon.stream.kafka_client import named

TOPICS = {"images": 1, "answers": 1, "labels": 1, "images-dlq": 1}
PER_STRETCH = 640
JUNK = 10
LOOK_S = 0.2


def run(bootstrap: str, per_second: float, laps: int, stopping: Bell) -> int:
    """Send until ``laps`` are over (0: there is no last one) or it is time to stop; return how many records were sent.

    Raises:
        ConfigError: the demo's images are not installed.
        BrokerUnreachable: no broker answered.
        TtaError: something could not be sent.
    """
    try:
        _, unseen = scans.load()
    except ImportError as fault:
        raise ConfigError("produce", f"{fault.name} is missing", "pip install 'tta-daemon[demo]'") from fault
    try:
        create_topics({"bootstrap_servers": bootstrap}, TOPICS)
    except KafkaError as fault:
        raise BrokerUnreachable(f"no topics could be made at {bootstrap}: {named(fault)}") from fault
    sent = 0
    for lap in count(1):
        plan = traffic.plan(journey(1), unseen, PER_STRETCH, JUNK, seed=lap)
        with Cameras(bootstrap, plan, per_second, partial(len, plan)) as cameras:
            while not cameras.done and not stopping.wait(LOOK_S):
                pass
        sent += cameras.sent
        if cameras.error is not None:
            raise TtaError(f"the images could not be sent: {cameras.error!r}")
        if stopping.is_set() or lap == laps:
            return sent
    raise AssertionError("there is always another lap")
