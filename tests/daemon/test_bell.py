"""A bell that a signal handler may ring at any moment."""

import signal
import threading

from tta_daemon.bell import Bell


def test_it_is_waited_for_until_it_is_rung():
    bell = Bell()
    assert not bell.wait(0.01)
    assert not bell.is_set()
    threading.Timer(0.01, bell.set).start()
    assert bell.wait(60)
    assert bell.is_set()
    for _ in range(3):
        bell.set()
        assert bell.wait(0)
        assert bell.wait(60)


def test_signals_that_interrupt_whoever_waits():
    """With a `threading.Event` this stands still sooner or later: its set waits for the lock of its wait."""
    bells, rung = [Bell()], []

    def ring(*_):
        bells[-1].set()
        rung.append(len(bells))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(rung) < 500:
            bells.append(Bell())
            while not bells[-1].wait(0.0001):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(bell.is_set() for bell in bells[1:])
