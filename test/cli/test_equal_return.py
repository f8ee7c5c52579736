"""The comparison of planners at equal return, on made-up figures."""

from __future__ import annotations

import pytest
from benchmarks.equal_return import BUDGET, Point, cheapest, pets_ms, scaled, target

from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.choice import CONFIGS
from wm_ros.planners.mppi import MPPIConfig


def point(returned: float, ms: float, steps: float = 100.0) -> Point:
    return Point(1.0, returned, steps, ms, "")


def test_the_fastest_budget_that_comes_near_the_best_of_all_planners_is_named() -> None:
    planners = {"a": [point(400, 1), point(790, 5), point(800, 9)], "b": [point(700, 0.5), point(755, 2)]}
    assert target(planners) == pytest.approx(760)
    assert cheapest(planners["a"], 760) == point(790, 5)
    assert cheapest(planners["b"], 760) is None


def test_the_reference_is_the_published_work_at_the_best_rate_here() -> None:
    assert pets_ms({"a": [point(1, 10.0, 1000), point(1, 15.0, 3000)]}) == pytest.approx(525_000 * 15 / 3000)


@pytest.mark.parametrize("factor", [0.05, 0.25, 4.0])
def test_a_scaled_budget_is_a_valid_one_and_elites_keep_their_share(factor: float) -> None:
    for kind, config in CONFIGS.items():
        if kind in BUDGET:
            made = scaled(config(), factor)
            least = 2 if BUDGET[kind] == "candidates" else 1
            assert getattr(made, BUDGET[kind]) == max(least, round(getattr(config(), BUDGET[kind]) * factor))
    assert scaled(CEMConfig(candidates=100, elites=10), 4.0) == CEMConfig(candidates=400, elites=40)
    assert scaled(MPPIConfig(candidates=20, shown=8), 0.25).shown == 5  # type: ignore[attr-defined]
