"""What would stop the demo is heard, wherever Python is when it comes."""

import os
import signal
import weakref
from collections.abc import Iterator

import pytest

from vlm2vec_demo.served import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Thing:
    """Can be referred to weakly."""


@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_raised_where_it_comes_once_released(number: signal.Signals) -> None:
    interrupts = Interrupts()
    interrupts.release()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_waits_for_the_release(number: signal.Signals) -> None:
    interrupts = Interrupts()
    os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        interrupts.release()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_not_lost_in_a_callback_that_python_does_not_listen_to(
    number: signal.Signals,
) -> None:
    interrupts = Interrupts()
    interrupts.release()
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert reference() is None
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
