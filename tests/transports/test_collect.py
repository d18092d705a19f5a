import gc
import weakref

import pytest
from twisted.internet.task import Clock

from imgateway.transports.collect import Collector, collector_of


class Bucket:
    def __init__(self, name, log, fails=False):
        self.name, self.log, self.fails = name, log, fails

    def flush(self):
        self.log.append(self.name)
        if self.fails:
            raise ZeroDivisionError


def test_one_delayed_call_a_turn_flushes_all():
    clock, log = Clock(), []
    collector = Collector(clock)
    for name in "abc":
        collector.add(Bucket(name, log))
    assert len(clock.getDelayedCalls()) == 1
    assert log == []
    clock.advance(0)
    assert log == ["a", "b", "c"]
    assert clock.getDelayedCalls() == []


def test_what_a_flush_adds_is_flushed_too():
    clock, log = Clock(), []
    collector = Collector(clock)
    first = Bucket("first", log)
    first.flush = lambda: collector.add(Bucket("second", log))
    collector.add(first)
    clock.advance(0)
    assert log == ["second"]
    assert clock.getDelayedCalls() == []


def test_an_exception_of_one_delays_the_others_and_forgets_nobody():
    clock, log = Clock(), []
    collector = Collector(clock)
    for bucket in (Bucket("a", log), Bucket("bad", log, fails=True), Bucket("b", log), Bucket("c", log)):
        collector.add(bucket)
    with pytest.raises(ZeroDivisionError):
        clock.advance(0)
    assert log == ["a", "bad"]
    clock.advance(0)
    assert log == ["a", "bad", "b", "c"]


def test_a_reactor_has_one_collector_which_does_not_keep_it_alive():
    clock = Clock()
    assert collector_of(clock) is collector_of(clock)
    assert collector_of(Clock()) is not collector_of(clock)
    gone = weakref.ref(clock)
    del clock
    gc.collect()
    assert gone() is None
