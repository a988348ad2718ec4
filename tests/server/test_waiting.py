"""The queue before an engine: bounded, fair between tenants, and it loses no place."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwick.errors import OverloadedError
from qwick.server.waiting import FairQueue


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_places_go_round_the_tenants() -> None:
    async def run() -> list[str]:
        queue, order = FairQueue(1, 100), []

        async def ask(tenant: str) -> None:
            await queue.enter(tenant)
            order.append(tenant)
            await asyncio.sleep(0)
            queue.leave()

        await queue.enter("a")
        tasks = [asyncio.create_task(ask(tenant)) for tenant in "aaaaaabcb"]
        await settle()
        queue.leave()
        await asyncio.gather(*tasks)
        assert queue.running == queue.waiting == 0
        return order

    order = asyncio.run(run())
    assert Counter(order) == {"a": 6, "b": 2, "c": 1}
    assert order == ["a", "b", "c", "a", "b", "a", "a", "a", "a"]


def test_what_cannot_wait_is_told_when_to_come_back() -> None:
    async def run() -> None:
        queue = FairQueue(2, 4)
        for _ in range(2):
            await queue.enter("a")
        waiting = [asyncio.create_task(queue.enter("a")) for _ in range(4)]
        await settle()
        with pytest.raises(OverloadedError, match="2 requests are being answered and 4 wait") as e:
            await queue.enter("a")
        assert e.value.retry_after >= 1
        with pytest.raises(OverloadedError):
            await queue.enter("b")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert queue.waiting == 0
        others = [asyncio.create_task(queue.enter("b")) for _ in range(1)]
        own = [asyncio.create_task(queue.enter("a")) for _ in range(2)]
        await settle()
        with pytest.raises(OverloadedError, match="2 of one key"):
            await queue.enter("a")
        for task in (*others, *own):
            task.cancel()
        await asyncio.gather(*others, *own, return_exceptions=True)

    asyncio.run(run())


def test_nobody_waits_where_none_may() -> None:
    async def run() -> None:
        queue = FairQueue(1, 0)
        await queue.enter("a")
        with pytest.raises(OverloadedError):
            await queue.enter("b")
        queue.leave()
        await queue.enter("b")

    asyncio.run(run())


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["stay", "leave", "cancel"])), max_size=40
    ),
    st.integers(1, 3),
    st.integers(0, 8),
)
def test_no_place_is_lost(visits: list[tuple[str, str]], places: int, room: int) -> None:
    """Whatever is cancelled when: afterwards all places are free and nobody waits."""

    async def run() -> None:
        queue = FairQueue(places, room)

        async def visit(tenant: str, how: str) -> None:
            try:
                await queue.enter(tenant)
            except OverloadedError:
                return
            try:
                assert queue.running <= places
                await asyncio.sleep(0 if how == "leave" else 0.001)
            finally:
                queue.leave(0.001)

        tasks = []
        for tenant, how in visits:
            task = asyncio.create_task(visit(tenant, how))
            tasks.append(task)
            if how == "cancel":
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.running == queue.waiting == 0

    asyncio.run(run())
