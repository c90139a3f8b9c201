"""The ledger never calls an offset safe while a record before it is open."""

from hypothesis import given
from hypothesis import strategies as st

from tta_daemon.stream.ledger import Ledger
from tta_daemon.stream.records import Partition, Position

A, B = Partition("images", 0), Partition("images", 1)


def test_nothing_is_safe_before_anything_was_opened():
    assert Ledger().safe() == {}


def test_an_open_record_holds_back_those_after_it():
    ledger = Ledger()
    for offset in 10, 11, 12:
        ledger.opened(Position(A, offset), 100)
    ledger.closed(Position(A, 12))
    ledger.closed(Position(A, 11))
    assert ledger.safe() == {}
    assert ledger.ragged
    assert (ledger.open_count, ledger.open_bytes) == (1, 100)
    ledger.closed(Position(A, 10))
    assert ledger.safe() == {A: 13}
    assert not ledger.ragged


def test_what_is_settled_is_not_offered_again():
    ledger = Ledger()
    ledger.opened(Position(A, 0))
    ledger.closed(Position(A, 0))
    ledger.settled(ledger.safe())
    assert ledger.safe() == {}
    ledger.opened(Position(A, 1))
    ledger.closed(Position(A, 1))
    assert ledger.safe() == {A: 2}


def test_a_forgotten_partition_may_be_read_again_from_before():
    ledger = Ledger()
    ledger.opened(Position(A, 7))
    ledger.opened(Position(B, 3))
    ledger.forget([A])
    ledger.closed(Position(A, 7))
    assert ledger.safe() == {}
    ledger.opened(Position(A, 5))
    ledger.closed(Position(A, 5))
    assert ledger.safe() == {A: 6}
    assert ledger.open_count == 1


@st.composite
def histories(draw):
    """Offsets with gaps, opened in order; closed in any order, any number of them."""
    gaps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    closed = draw(st.permutations(offsets))[: draw(st.integers(0, len(offsets)))]
    return offsets, closed


@given(histories())
def test_safe_means_everything_before_is_closed(history):
    offsets, closed = history
    ledger = Ledger()
    for offset in offsets:
        ledger.opened(Position(A, offset))
    done = set()
    for offset in closed:
        ledger.closed(Position(A, offset))
        done.add(offset)
        safe = ledger.safe().get(A, offsets[0])
        assert {o for o in offsets if o < safe} <= done
        assert safe > offsets[-1] or safe in set(offsets) - done  # and it is the furthest such offset
    assert ledger.open_count == len(offsets) - len(closed)
