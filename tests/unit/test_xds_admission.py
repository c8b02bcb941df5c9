"""Who waits to be let in, and what becomes of the turn of one that goes away."""

from __future__ import annotations

import asyncio

from smi_adapter.delivery.xds.admission import Admission


async def test_who_goes_away_while_it_waits_leaves_its_turn_to_the_others() -> None:
    admission = Admission(per_second=0.5, longest_wait=40.0)
    assert await admission.admit()
    waiting = [asyncio.create_task(admission.admit()) for _ in range(20)]
    await asyncio.sleep(0)
    assert not await admission.admit(), "the queue is full"
    *gone, last = waiting
    for one in gone:
        one.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    late = asyncio.create_task(admission.admit())
    assert await asyncio.wait_for(last, 30), "39 s if it kept its place"
    assert not late.done(), "what others left makes nobody faster than the rate"
    late.cancel()


async def test_who_waits_goes_in_by_order_of_arrival() -> None:
    admission = Admission(per_second=50.0, longest_wait=60.0)
    went: list[int] = []

    async def come(number: int) -> None:
        assert await admission.admit()
        went.append(number)

    await asyncio.gather(*(come(number) for number in range(70)))
    assert went == [*range(70)]
