"""How `fotmem select` extrapolates what it measured to larger memories."""

import numpy as np
import pytest

from fotmem.measure.select import extrapolate as laws
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")

SIZES = [8192, 16384, 32768]


def test_laws_continue_the_measurements() -> None:
    assert laws.amount(SIZES, [100 + 3.0 * n for n in SIZES])(2**20) == pytest.approx(
        100 + 3 * 2**20
    )
    rising = laws.shares([1], SIZES, [[0.01 * np.log(n) for n in SIZES]])
    assert rising(1, 2**20) == pytest.approx(0.01 * np.log(2**20))


def test_a_larger_memory_is_like_one_that_is_searched_with_less() -> None:
    """Oracle: a power of the size that effort must grow with, and what no effort finds."""
    efforts = [2.0**i for i in range(2, 10)]

    def missed(effort: float, tokens: int) -> float:
        within = float(np.interp(np.log2(effort) - np.log2(tokens / 2**15) / 2, [2, 9], [0.4, 0]))
        return within + 0.02 * float(np.log2(tokens / 2**12))

    law = laws.shares(efforts, SIZES, [[missed(each, n) for n in SIZES] for each in efforts])
    for effort in (16, 100, 512):
        for tokens in (2**14, 2**15, 2**17):
            assert law(effort, tokens) == pytest.approx(missed(effort, tokens), abs=2e-3)
    # With less effort than was tried, it goes on as between the two least.
    assert law(4, 2**17) == pytest.approx(0.1 + 0.4 + 0.4 / 7, abs=2e-3)


def searches(effort: float, power: float, idle: float = 0.0) -> laws.SearchCosts:
    """Read ``effort * 2 * N ** power`` keys for 3e-7 s each, and so many more for nothing."""
    read = [min(n, idle + effort * 2 * n**power) for n in SIZES]
    return laws.SearchCosts(SIZES, [2e-4 + 3e-7 * effort * 2 * n**power for n in SIZES], read)


@pytest.mark.parametrize("power", [0.0, 0.4, 0.5, 0.8])
@pytest.mark.parametrize("idle", [0.0, 1500.0])
def test_latency_is_that_of_the_keys_read_for_the_effort(power: float, idle: float) -> None:
    costs = laws.costs({effort: searches(effort, power, idle) for effort in (1.0, 0.5, 2.0)})
    for effort, law in costs.items():
        for tokens in (2**18, 2**20):
            expected = 2e-4 + 3e-7 * effort * 2 * tokens**power
            assert law(tokens) == pytest.approx(expected, rel=1e-6)


def test_an_effort_that_read_all_of_a_small_memory_does_not_read_all_of_a_large_one() -> None:
    """It reads as much more than the next one as it is greater."""
    costs = laws.keys_compared({effort: searches(effort, 0.4, 100) for effort in (4.0, 16.0, 1e3)})
    assert costs[16.0](2**20) == pytest.approx(16 * 2 * 2**8)
    assert costs[1e3](2**20) == pytest.approx(1e3 * 2 * 2**8)
    assert costs[1e3](2**10) == 2**10


def test_a_search_with_one_partial_size_grows_with_the_root() -> None:
    once = laws.SearchCosts(SIZES[:2], [1e-3, 2e-3], [8192.0, 12_000])
    assert laws.keys_compared({1.0: once})[1.0](2**20) == pytest.approx(12_000 * 2**3)


def test_a_search_that_always_read_all_reads_all() -> None:
    times = [1e-8 * n for n in SIZES]
    law = laws.costs({1.0: laws.SearchCosts(SIZES, times, [float(n) for n in SIZES])})[1.0]
    assert law(2**20) == pytest.approx(1e-8 * 2**20)


def test_the_latency_of_a_graph_grows_with_its_effort() -> None:
    """Not by what it takes in any case, as looking at hubs."""

    def seconds(effort: float, tokens: int) -> float:
        return 3e-4 + 1e-6 * effort * float(np.log1p(tokens / 128))

    timed = {
        effort: laws.SearchCosts(SIZES, [seconds(effort, size) for size in SIZES], None)
        for effort in (64.0, 32.0, 512.0)
    }
    for effort, law in laws.costs(timed).items():
        assert law(2**20) == pytest.approx(seconds(effort, 2**20))
    [alone] = laws.costs({64.0: timed[64.0]}).values()
    assert alone(2**20) > seconds(64, 2**20)
    odd = {effort: laws.SearchCosts(SIZES, [1e-3 / effort] * 3, None) for effort in (1.0, 2.0)}
    assert [law(2**20) > 1e-4 for law in laws.costs(odd).values()] == [True, True]


def test_an_effort_without_effect_changes_no_prediction() -> None:
    """The line through two efforts that read the same would leave no keys to count."""
    alike = {effort: laws.SearchCosts(SIZES, [1e-3] * 3, [500.0] * 3) for effort in (1.0, 2.0)}
    assert [law(2**20) for law in laws.keys_compared(alike).values()] == pytest.approx([500] * 2)
    assert [law(2**20) for law in laws.costs(alike).values()] == pytest.approx([1e-3] * 2)


def test_larger_sizes_count_more_for_latency() -> None:
    """The squares of what is off, each relative, count as much as there are tokens."""
    first, second = 1.0e-3, 1.1e-3
    timed = laws.SearchCosts([8192, 32_768], [first, second], [500.0] * 2)
    found = laws.costs({1.0: timed})[1.0](2**20)
    assert (found - first) / first**2 == pytest.approx(4 * (second - found) / second**2)


def test_costs_between_sizes_are_those_that_were_measured() -> None:
    times = [1e-3, 5e-3, 6e-3]
    predicted = laws.costs({1.0: laws.SearchCosts(SIZES, times, [100.0, 200.0, 300.0])})[1.0]
    assert [predicted(size) for size in SIZES] == pytest.approx(times)
    assert 1e-3 < predicted(12_000) < 5e-3
    assert predicted(100) == pytest.approx(1e-3)


def test_noise_makes_no_law_absurd() -> None:
    """Nothing gets cheaper as it grows, no share leaves 0 to 1, and nothing grows beyond N."""
    falling = laws.SearchCosts(SIZES, [3e-3, 2e-3, 1e-3], [3e3, 2e3, 1e3])
    assert 1e-3 <= laws.costs({1.0: falling})[1.0](2**20) <= 3e-3
    steep = laws.SearchCosts(SIZES, [1.0, 10.0, 100.0], [10.0, 100.0, 1000.0])
    assert laws.keys_compared({1.0: steep})[1.0](2**20) < 2**5 * 1000
    lower = {
        effort: laws.SearchCosts(SIZES, [1e-3] * 3, [read] * 3)
        for effort, read in ((1.0, 100.0), (2.0, 110.0), (4.0, 80.0))
    }
    assert laws.keys_compared(lower)[4.0](2**20) >= 1
    silent = laws.SearchCosts(SIZES, [1e-3] * 3, [0.0] * 3)
    assert 0.9e-3 <= laws.costs({1.0: silent, 2.0: silent})[2.0](2**20) < 1.0
    assert laws.shares([1], SIZES, [[0.3, 0.2, 0.1]])(1, 2**20) == pytest.approx(0.1)
    assert laws.shares([1], SIZES, [[0.3, 0.6, 0.9]])(1, 2**30) == 1
    noise = laws.shares([1, 2], SIZES, [[0.3, 0.2, 0.1], [0.3, 0.3, 0.2]])
    assert noise(1, 2**20) == pytest.approx(0.1)
    assert laws.amount(SIZES, [5e6, 4e6, 3e6])(2**20) > 0
    assert laws.amount(SIZES, [0.0, 0.0, 0.0])(2**20) == 0


def test_one_size_is_enough() -> None:
    assert laws.amount([8192], [0.5])(8192) == pytest.approx(0.5)
    graph = laws.costs({1.0: laws.SearchCosts([8192], [0.5], None)})[1.0]
    assert graph(8192) == pytest.approx(0.5)
    once = laws.costs({1.0: laws.SearchCosts([8192], [0.5], [100.0])})[1.0]
    assert once(8192) == pytest.approx(0.5)
    assert 0.5 <= once(2**20) < 0.5 * 2**7
    assert laws.shares([1, 2], [8192], [[0.5], [0.4]])(2, 8192) == pytest.approx(0.4)
