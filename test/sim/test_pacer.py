import pytest

from wm_ros.sim.pacer import SLIP_NS, Pacer

FRAME_NS = 10_000_000


def test_deadlines_do_not_drift_however_late_each_frame_begins() -> None:
    pacer = Pacer(1 / 3)
    pacer.start(1000, 1.0)
    for frame in range(3000):
        assert pacer.deadline_ns == 1000 + round(frame * 1e9 / 3)
        pacer.begin(pacer.deadline_ns + 5_000_000)
    assert pacer.overruns == 0


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0, 100.0])
def test_the_real_time_factor_scales_the_frame(factor: float) -> None:
    pacer = Pacer(0.01)
    pacer.start(0, factor)
    pacer.begin(0)
    assert pacer.deadline_ns == round(FRAME_NS / factor)


def test_a_change_of_the_factor_counts_from_the_next_deadline_on() -> None:
    pacer = Pacer(0.01)
    pacer.start(0, 1.0)
    pacer.begin(0)
    pacer.set_factor(2.0)
    assert pacer.deadline_ns == FRAME_NS
    pacer.begin(FRAME_NS)
    assert pacer.deadline_ns == FRAME_NS + FRAME_NS // 2


def test_a_late_frame_is_counted_and_caught_up() -> None:
    pacer = Pacer(0.01)
    pacer.start(0, 1.0)
    pacer.begin(35_000_000)
    assert pacer.overruns == 1 and pacer.slips == 0
    assert pacer.deadline_ns == FRAME_NS


def test_time_lost_in_a_long_stop_is_given_up_instead_of_replayed() -> None:
    pacer = Pacer(0.01)
    pacer.start(0, 1.0)
    now = SLIP_NS + 60_000_000_000
    pacer.begin(now)
    assert pacer.slips == 1
    assert pacer.deadline_ns == now + FRAME_NS
