"""After any crash, with whichever state and offsets survived, each record gets only what it still lacks."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tta_daemon.stream.progress import Progress, Start
from tta_daemon.stream.records import Partition, Position

P = Partition("images", 0)
SIZE = 4


def at(offset: int) -> Position:
    return Position(P, offset)


def test_nothing_saved_nothing_changes() -> None:
    progress = Progress()
    assert progress.begin(P, 7) == Start()
    assert progress.must_learn(at(7))
    assert progress.must_answer(at(7))
    assert progress.behind([P]) == {}


def test_a_state_ahead_of_the_group_is_not_taught_twice() -> None:
    progress = Progress({P: 8})
    assert progress.begin(P, 4) == Start()
    assert [progress.must_learn(at(n)) for n in (4, 7, 8)] == [False, False, True]
    assert all(progress.must_answer(at(n)) for n in (4, 8))


def test_a_group_without_offsets_reads_from_its_beginning() -> None:
    progress = Progress({P: 8})
    assert progress.begin(P, None) == Start()
    assert progress.must_answer(at(0))
    assert not progress.must_learn(at(0))


def test_what_is_gone_from_the_log_is_skipped_and_told() -> None:
    progress = Progress({P: 8})
    assert progress.begin(P, 40, oldest=lambda _: 20) == Start(20, skipped=12)
    assert Progress({P: 8}).begin(P, 40, oldest=lambda _: 60) == Start(None, skipped=32)


def test_no_more_is_relearned_than_is_allowed() -> None:
    progress = Progress({P: 8}, relearn_most=10)
    assert progress.begin(P, 100) == Start(90, skipped=82)
    assert Progress({P: 8}, relearn_most=0).begin(P, 100) == Start(None, skipped=92)


def test_a_partition_that_comes_back_was_answered_by_another_meanwhile() -> None:
    progress = Progress()
    progress.begin(P, 0)
    progress.learned_from([at(3)])
    assert progress.begin(P, 400) == Start()
    assert progress.learned == {P: 400}
    progress.learned_from([at(403)])
    assert progress.begin(P, 402) == Start()
    assert not progress.must_learn(at(403))


def test_a_partition_lost_while_catching_up_goes_on_catching_up() -> None:
    progress = Progress({P: 0})
    assert progress.begin(P, 8) == Start(0)
    progress.learned_from([at(0), at(1), at(2), at(3)])
    assert progress.behind([P]) == {P: 4}
    assert progress.begin(P, 8) == Start(4)
    progress.learned_from([at(7)])
    assert progress.behind([P]) == {}
    assert progress.begin(P, 80) == Start()


@given(learned=st.integers(0, 50), committed=st.integers(0, 50))
def test_each_record_is_learned_and_answered_exactly_as_if_there_had_been_no_crash(
    learned: int, committed: int
) -> None:
    progress = Progress({P: learned})
    start = progress.begin(P, committed).seek
    read = range(committed if start is None else start, 60)
    assert [n for n in read if progress.must_learn(at(n))] == [*range(learned, 60)]
    assert [n for n in read if progress.must_answer(at(n))] == [*range(committed, 60)]


@dataclass
class Process:
    """A daemon reduced to its bookkeeping: it gathers batches of `SIZE`, answers them and learns from them."""

    progress: Progress
    position: int
    state: list[tuple[int, ...]]
    waiting: list[tuple[int, bool]] = field(default_factory=list)
    safe: int = 0


class Crashes(RuleBasedStateMachine):
    """Whatever survives a crash, the state is always the one that an uninterrupted run has at the same record."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[list[tuple[int, ...]], int]] = []  # states, each with its mark
        self.committed: int | None = None
        self.answers: list[int] = []  # final ones: committed with their offsets
        self.unsettled: list[int] = []
        self.start()

    def start(self) -> None:
        state, mark = self.saved[-1] if self.saved else ([], None)
        progress = Progress({} if mark is None else {P: mark})
        seek = progress.begin(P, self.committed).seek
        begin = self.committed or 0
        self.unsettled = []
        self.process = Process(progress, begin if seek is None else seek, list(state), safe=begin)

    @rule(count=st.integers(1, 9))
    def read(self, count: int) -> None:
        process, progress = self.process, self.process.progress
        for offset in range(process.position, process.position + count):
            learn = progress.must_learn(at(offset))
            if process.waiting and process.waiting[0][1] != learn:
                self.answer()
            process.waiting.append((offset, learn))
            if len(process.waiting) == SIZE:
                self.answer()
        process.position += count

    def answer(self) -> None:
        process, progress = self.process, self.process.progress
        batch, learn = tuple(offset for offset, _ in process.waiting), process.waiting[0][1]
        self.unsettled += [offset for offset in batch if progress.must_answer(at(offset))]
        if learn:
            process.state.append(batch)
        progress.learned_from([at(offset) for offset in batch])
        process.safe = max(process.safe, batch[-1] + 1)
        process.waiting = []

    @rule()
    def save(self) -> None:
        if mark := self.process.progress.learned.get(P):
            self.saved.append((list(self.process.state), mark))

    @rule()
    def commit(self) -> None:
        if not self.saved:
            self.save()
        self.answers += self.unsettled
        self.unsettled, self.committed = [], self.process.safe

    @rule()
    def fail_to_deliver(self) -> None:
        process = self.process
        process.waiting, self.unsettled = [], []
        process.position = process.progress.behind([P]).get(P, self.committed or 0)
        process.safe = self.committed or 0

    @rule()
    def crash(self) -> None:
        self.start()

    @precondition(lambda self: len(self.saved) > 1)
    @rule()
    def lose_the_newest_state(self) -> None:
        self.saved.pop()
        self.start()

    @invariant()
    def the_state_is_that_of_an_uninterrupted_run(self) -> None:
        state = self.process.state
        assert state == [tuple(range(SIZE * n, SIZE * (n + 1))) for n in range(len(state))]

    @invariant()
    def every_record_is_answered_once(self) -> None:
        assert self.answers == [*range(len(self.answers))]
        assert len(self.answers) == (self.committed or 0)


TestCrashes = Crashes.TestCase
