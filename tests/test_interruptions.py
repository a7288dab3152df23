"""Signals that stop a run: one is enough, a second does not cut cleaning up short, and none comes amid a step."""

import signal
import threading

import pytest

from attrbench import interruptions
from attrbench.errors import Interrupted
from attrbench.interruptions import SIGNALS, held_back, ignore_interruptions, obey_interruptions


@pytest.fixture(autouse=True)
def _signals(monkeypatch):
    """Handlers as the command line sets them, and the ones of before at the end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(interruptions, "_last", -interruptions.PATIENCE)
    obey_interruptions()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_signals_during_cleaning_up_are_ignored_for_a_while_and_then_obeyed(first, second, monkeypatch):
    with pytest.raises(Interrupted):
        signal.raise_signal(first)
    signal.raise_signal(second)
    monkeypatch.setattr(interruptions, "PATIENCE", 0.0)
    with pytest.raises(Interrupted):
        signal.raise_signal(second)


def test_signals_that_are_ignored_at_the_end_stay_ignored():
    ignore_interruptions()
    with held_back() as has_come:
        for number in SIGNALS:
            signal.raise_signal(number)
    assert not has_come()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_held_back_until_the_block_ends(number):
    seen = []

    def work():
        with held_back() as has_come:
            seen.append(has_come())
            signal.raise_signal(number)
            seen.append(has_come())

    with pytest.raises(Interrupted):
        work()
    assert seen == [False, True]
    assert signal.getsignal(number) is interruptions._interrupt


def test_a_second_signal_is_not_held_back():
    def work():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the block went on")

    with pytest.raises(Interrupted):
        work()


def test_an_error_in_the_block_is_raised_and_the_handlers_are_back():
    def work():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert signal.getsignal(signal.SIGTERM) is interruptions._interrupt


def test_a_thread_holds_nothing_back():
    seen = []

    def work():
        with held_back() as has_come:
            seen.append((has_come(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, interruptions._interrupt)]
