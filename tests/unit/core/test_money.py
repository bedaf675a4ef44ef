"""The seed's section Billing, sentence by sentence, and the exactness that SPEC R4-R6 promise."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from longshore_controller.core import money
from longshore_controller.core.money import DAY_MS, SEED_RATES, RateCard, Rates, cost_nanousd, with_card

HOUR_MS = 3_600_000
PRICES = dict(SEED_RATES[0].prices)


def charges(mcpu: int, started_at_ms: int, ms: int, rates: Rates = SEED_RATES) -> dict[tuple[int, str], int]:
    return {(c.day, c.resource): c.nanousd for c in money.charges(mcpu, started_at_ms, ms, rates)}


def test_the_sum_of_these_costs_is_0_02170_per_core_per_hour() -> None:
    """The seed: "The sum of these costs is **$0.02170** per core per hour." """
    assert PRICES["compute"] == Fraction("0.01")
    assert round(float(PRICES["disk"]), 6) == 0.001454
    assert PRICES["ip"] == Fraction("0.00025")
    assert PRICES["service"] == Fraction("0.01")
    assert f"{float(SEED_RATES[0].total()):.4f}0" == "0.02170"


def test_disk_is_17_cents_for_100_gb_over_16_cores_and_30_4375_days() -> None:
    assert PRICES["disk"] == Fraction(17, 100) * 100 / Fraction("30.4375") / 24 / 16


def test_one_core_for_one_hour_is_charged_by_resource_to_the_nano_dollar() -> None:
    assert charges(1000, 0, HOUR_MS) == {
        (0, "compute"): 10_000_000,
        (0, "disk"): 1_454_483,  # 1,454,483.2 nano-dollars
        (0, "ip"): 250_000,
        (0, "service"): 10_000_000,
    }


def test_two_minutes_preempted_and_five_successful_cost_what_seven_cost() -> None:
    minute = 60_000
    rounding = 8
    assert (
        abs(
            cost_nanousd(1000, 0, 2 * minute)
            + cost_nanousd(1000, 0, 5 * minute)
            - cost_nanousd(1000, 0, 7 * minute)
        )
        <= rounding
    )
    assert [charges(1000, 0, m * minute)[0, "compute"] for m in (2, 5, 7)] == [333_333, 833_333, 1_166_667]


def test_time_past_midnight_is_charged_to_the_next_day() -> None:
    both = charges(1000, DAY_MS - HOUR_MS, 2 * HOUR_MS)
    assert {day for day, _ in both} == {0, 1}
    assert both[0, "compute"] == both[1, "compute"] == 10_000_000


def test_no_time_costs_nothing() -> None:
    assert charges(16_000, 12345, 0) == {}


@given(st.integers(1, 64_000), st.integers(0, 10**13), st.integers(1, 10**9))
def test_each_charge_is_within_half_a_nano_dollar_of_the_exact_price(mcpu: int, start: int, ms: int) -> None:
    exact: dict[str, Fraction] = {}
    pieces: dict[tuple[int, str], Fraction] = {}
    at, left = start, ms
    while left:
        piece = min(left, DAY_MS - at % DAY_MS)
        for resource, usd in PRICES.items():
            price = usd * 10**9 * mcpu * piece / (1000 * HOUR_MS)
            pieces[at // DAY_MS, resource] = price
            exact[resource] = exact.get(resource, Fraction(0)) + price
        at, left = at + piece, left - piece
    charged = charges(mcpu, start, ms)
    assert charged.keys() == pieces.keys()
    assert all(abs(charged[k] - pieces[k]) <= Fraction(1, 2) for k in pieces)


def test_each_day_is_priced_by_the_card_of_that_day() -> None:
    """A rate that changes in the middle of an attempt changes what is used from then on."""
    rates = with_card(SEED_RATES, RateCard(1, (("compute", Fraction(1)),)))
    both = charges(1000, DAY_MS - HOUR_MS, 2 * HOUR_MS, rates)
    assert {k: v for k, v in both.items() if k[0] == 1} == {(1, "compute"): 10**9}
    assert {k: v for k, v in both.items() if k[0] == 0} == charges(1000, DAY_MS - HOUR_MS, HOUR_MS)
    assert with_card(rates, RateCard(1, ())) == (*SEED_RATES, RateCard(1, ()))
    assert cost_nanousd(1000, DAY_MS - HOUR_MS, 2 * HOUR_MS, rates) == sum(both.values())
