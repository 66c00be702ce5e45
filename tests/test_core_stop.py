"""The request to stop by itself; with signals, see test_stopping."""

import pytest

from miniplm_assets.core.stop import Stop, Stopped


def test_nobody_stops_who_was_not_asked():
    stop = Stop()
    stop.look()
    with stop.held():
        stop.look()
        assert stop.is_held
    assert not stop.is_held and not stop.is_asked


def test_who_is_not_held_stops_at_once_and_at_every_look():
    stop = Stop()
    with pytest.raises(Stopped):
        stop.ask()
    assert stop.is_asked
    with pytest.raises(Stopped):
        stop.look()


def test_who_is_held_stops_at_a_look_or_at_the_second_request():
    stop = Stop()
    with stop.held():
        with stop.held():
            stop.ask()
        assert stop.is_held
        with pytest.raises(Stopped):
            stop.look()
        with pytest.raises(KeyboardInterrupt):
            stop.ask()


def test_nothing_that_handles_errors_takes_a_stop_for_one():
    assert not issubclass(Stopped, Exception)
