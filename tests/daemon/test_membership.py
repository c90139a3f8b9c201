"""What the client is told when it asks whether it may join again."""

from kafka import TopicPartition

from tta_daemon.stream.membership import Membership
from tta_daemon.stream.records import Partition

OURS = Partition("images", 0)


class Generation:
    def is_lost(self):
        return False


class Coordinator:
    """A leader whose metadata flickers."""

    def __init__(self):
        self.flickers, self.rejoining, self._generation = False, False, Generation()

    def need_rejoin(self):
        return self.flickers

    async def _do_join_and_sync_async(self):
        return None


def test_a_rebalance_that_was_announced_takes_place_though_its_reason_is_gone():
    member, coordinator = Membership(), Coordinator()
    member.watch(coordinator)
    member.on_partitions_assigned([TopicPartition("images", 0)])
    member.take()
    coordinator.flickers = True
    assert not coordinator.need_rejoin()  # first it is announced
    assert member.take()[1] == {OURS}  # and they are let go of
    coordinator.flickers = False
    assert coordinator.need_rejoin()  # else nobody would ever begin with them again
    member.on_partitions_revoked([TopicPartition("images", 0)])
    member.on_partitions_assigned([TopicPartition("images", 0)])
    assert not coordinator.need_rejoin()
