"""Engines that are lost with their nodes: who waits how long for whom, and what the others take over."""

from __future__ import annotations

import pytest

from mars.cluster.absent_engines import AbsentEngines, unfinished
from mars.cluster.successor import Successor, first_running
from mars.errors import WorkerError, WorkerLost
from mars.types import RolloutRequest, Sampling


class Ending:
    """The end of a process. answer: as of `is_over`."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def is_over(self, timeout_s=0.0):
        self.asked.append(timeout_s)
        return self.answer


class Places:
    """A worker group. ending: of every process; room: whether there is any; starts: how many starts have failed."""

    def __init__(self, ending, room=True, fails=0, node="a"):
        self.ending, self.room, self.fails, self._node, self.calls = ending, room, fails, node, []

    def node(self, index):
        return self._node

    def end(self, index):
        self.calls.append("end")
        return self.ending

    def has_room(self, index):
        return self.room

    def start(self, index):
        self.calls.append("start")

    def is_running(self, index):
        if self.fails:
            self.fails -= 1
            raise WorkerLost("it died")
        return True


def test_a_worker_is_ended_then_placed_then_started():
    ending = Ending(None)
    places = Places(ending, room=False)
    successor = Successor(places, 0)
    assert not successor.is_running()
    ending.answer = True
    assert not successor.is_running()
    assert places.calls == ["end"], "there is no room"
    places.room = True
    assert successor.is_running()
    assert successor.is_running()
    assert places.calls == ["end", "start"]
    assert not successor.is_node_lost()


@pytest.mark.parametrize("answer", [None, False])
def test_a_node_that_does_not_answer_or_is_gone_is_lost_and_asked_once(answer):
    ending = Ending(answer)
    successor = Successor(Places(ending), 0)
    assert successor.is_node_lost()
    ending.answer = True
    assert successor.is_node_lost(), "it was"
    assert len(ending.asked) == 1
    assert ending.asked[0] > 0


def test_nothing_is_started_before_the_old_process_is_gone_or_its_node():
    places = Places(Ending(None))
    successor = Successor(places, 0)
    assert not successor.is_running()
    places.ending.answer = False
    assert successor.is_running()
    assert places.calls == ["end", "start"]
    unknown = Places(None)
    assert Successor(unknown, 0).is_running(), "nothing is known of the old process: there is nothing to wait for"
    assert not Successor(unknown, 0).is_node_lost()


def test_a_start_on_a_lost_node_is_repeated_but_not_for_ever():
    twice = Places(Ending(False), fails=2)
    successor = Successor(twice, 0)
    assert [successor.is_running() for _ in range(3)] == [False, False, True]
    assert twice.calls == ["end", "start", "start", "start"]
    broken = Successor(Places(Ending(True), fails=9), 0)
    assert [broken.is_running() for _ in range(2)] == [False, False]
    with pytest.raises(WorkerError, match="it died; given up after 3 starts") as error:
        broken.is_running()
    assert not isinstance(error.value, WorkerLost), "another start would not help"


def test_the_first_that_runs_ends_a_wait_and_time_does():
    stuck, runs = Successor(Places(Ending(None)), 0), Successor(Places(Ending(True)), 1)
    assert first_running({0: stuck, 1: runs}, until=0.0) == 1
    assert first_running({0: stuck}, until=0.0) is None

    def lost():
        raise WorkerError("the cluster is lost")

    with pytest.raises(WorkerError, match="the cluster is lost"):
        first_running({0: stuck}, until=0.0, look=lost)


def absent(clock, *engines, of=4):
    """AbsentEngines of `of` engines with waits of 90 s and 600 s. engines: (number, node, answer of the node)."""
    made = AbsentEngines(of, 90.0, now=lambda: clock[0])
    made.last_wait_s = 600.0
    for number, node, answer in engines:
        made.add(number, Successor(Places(Ending(answer), node=node), number))
    return made


def test_all_engines_of_a_lost_node_wait_once_and_count_once_by_hand():
    clock = [1000.0]
    engines = absent(clock, (1, "a", False), (2, "a", None))
    assert engines.is_new_loss(1)
    until, candidates = engines.wait_for(1)
    assert (until, list(candidates)) == (1090.0, [1])
    clock[0] = 1090.0
    assert not engines.is_new_loss(2)
    until, candidates = engines.wait_for(2)
    assert (until, list(candidates)) == (1090.0, [2]), "its wait is over already"
    assert candidates[2]._ending.asked == [], "the node is known to be lost"
    assert engines.others() == [0, 3]
    engines.remove(1)
    engines.remove(2)
    engines.add(1, Successor(Places(Ending(False), node="a"), 1))
    assert engines.is_new_loss(1), "the node was back"
    assert engines.wait_for(1)[0] == 1180.0


def test_an_engine_whose_node_is_fine_is_waited_for_by_hand():
    clock = [1000.0]
    engines = absent(clock, (0, "a", True), (1, "a", True))
    assert [engines.is_new_loss(i) for i in (0, 1)] == [True, True], "each died by itself"
    assert engines.wait_for(0)[0] == 1600.0


def test_without_any_engine_the_first_that_has_a_place_is_waited_for_by_hand():
    clock = [1000.0]
    engines = absent(clock, (0, "a", False), (1, "b", False), of=2)
    engines.is_new_loss(1)
    clock[0] = 5000.0
    until, candidates = engines.wait_for(1)
    assert (until, sorted(candidates)) == (5600.0, [0, 1])
    assert engines.others() == []


def test_a_loss_is_noted_once_until_the_engine_is_lost_again():
    engines = absent([0.0], (1, "a", True))
    assert [engines.note(1) for _ in range(3)] == [True, False, False]
    engines.add(1, Successor(Places(Ending(True)), 1))
    assert engines.note(1), "its successor was lost"
    engines.remove(1)
    engines.add(1, Successor(Places(Ending(True)), 1))
    assert engines.note(1)


def test_an_engine_has_three_tries_each_time_it_is_absent_and_one_left_alone_none():
    engines = absent([0.0], (1, "a", False), (2, "b", False))
    assert [engines.has_failed(1) for _ in range(3)] == [True, True, False]
    engines.leave_alone(1)
    assert [number for number, _ in engines.to_take_in()] == [2]
    assert (1 in engines, engines.others()) == (True, [0, 3])
    assert sorted(absent_of_all(engines)) == [0, 1, 2, 3], "if no engine is left, it is waited for too"
    for number in range(4):
        engines.remove(number)
    engines.add(1, Successor(Places(Ending(False)), 1))
    assert [number for number, _ in engines.to_take_in()] == [1]
    assert engines.has_failed(1)


def absent_of_all(engines):
    for number in engines.others():
        engines.add(number, Successor(Places(Ending(False), node="c"), number))
    engines.is_new_loss(0)
    return engines.wait_for(0)[1]


def test_the_others_take_over_what_lacks_samples_by_hand():
    requests = [RolloutRequest(f"p{i}", None, (1,), (), 2, 0, Sampling(1.0, 1.0, 0, 6)) for i in range(5)]
    # 0: both samples. 1: one of two. 2: none. 3: cannot be read. 4: of another engine.
    given_out = {(0, 0), (0, 1), (1, 1), (3, None)}
    assert unfinished(requests, [2, 3, 0, 1], given_out) == [1, 2]
    assert unfinished(requests, [], given_out) == []
