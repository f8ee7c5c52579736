from wm_ros.sim.timeline import SECOND_NS, Timeline

PERIOD = 20_000_000


def test_stamps_rise_by_the_period_and_a_reset_leaves_a_gap_of_a_second() -> None:
    line = Timeline(PERIOD, SECOND_NS)
    line.reset()
    assert line.now_ns == line.start_ns == SECOND_NS
    for _ in range(7):
        line.tick()
    assert line.now_ns == SECOND_NS + 7 * PERIOD and line.start_ns == SECOND_NS
    last = line.now_ns
    line.reset()
    assert line.now_ns == line.start_ns >= last + SECOND_NS
    assert (line.now_ns - SECOND_NS) % PERIOD == 0


def test_a_reset_follows_the_wall_clock_forwards_but_never_backwards() -> None:
    line = Timeline(PERIOD, 1_000 * SECOND_NS)
    line.reset()
    line.reset(5_000 * SECOND_NS)
    assert 0 <= line.now_ns - 5_000 * SECOND_NS < PERIOD
    last = line.now_ns
    line.reset(10 * SECOND_NS)
    assert line.now_ns >= last + SECOND_NS


def test_with_slots_a_few_ticks_more_or_less_do_not_move_the_next_episode() -> None:
    starts = []
    for extra in (0, 3, 40):
        line = Timeline(PERIOD, SECOND_NS, 20 * SECOND_NS)
        line.reset()
        for _ in range(500 + extra):
            line.tick()
        line.reset()
        starts.append(line.start_ns)
    assert starts == [21 * SECOND_NS] * 3
