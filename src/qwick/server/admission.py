"""The gate: what keys and users have used, and whether the next request still fits their limits.

A limit holds for every stretch of time of its length (a sliding window), by the definition

    a request counts as one, from when it is admitted, for the length of the window;
    its prompt's tokens count from then on, and at least until its answer has ended;
    its answer's tokens count from the end of the answer on.

So answers under way may carry a key beyond its tokens; it then waits until that has left the
window. Kept in memory, and bounded: a window joins what is old when it holds much, always to the
later time; a user of whom nothing counts any more is forgotten, and where there are too many, the
one who has been away for longest. All of it is called from one thread, a server's event loop.

Why not the package `limits`: its memory storage reads the wall clock, which jumps, keeps every user
for ever, starts a thread for each request, and charges no cost that is known afterwards. Knows
nothing of HTTP but the names of its headers, and nothing of disks.
"""

from __future__ import annotations

import itertools
import math
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeAlias

from qwick.errors import ParameterError, RateLimitError
from qwick.server.limits import MOST, Limits, Rate
from qwick.values import check_kind, refused, whole

__all__ = ["Admission", "Gate", "duration_text"]

MOST_USERS = 10_000  # that are remembered
MOST_NAME = 64  # characters of a key's id or a user's pseudonym
MOST_ENTRIES = 512  # of a window; it is exact up to there
SLOTS = 256  # of a window that holds more: what is in the same slot counts as of the slot's end
SOON = 1.0  # seconds after which to ask again, where nobody can know


class Window:
    """What was used in the last `rate.seconds`: times and amounts, the oldest first."""

    __slots__ = ("_amounts", "_times", "rate", "used")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._times = array("d")
        self._amounts = array("q")
        self.used = 0

    def expire(self, now: float) -> None:
        """Drop what counts no longer; to be called before anything else is asked."""
        gone = 0
        while gone < len(self._times) and now - self._times[gone] >= self.rate.seconds:
            self.used -= self._amounts[gone]
            gone += 1
        del self._times[:gone], self._amounts[:gone]

    def add(self, moment: float, amount: int) -> None:
        """Count `amount` as used at `moment`, which may be past."""
        if amount == 0:
            return
        at = bisect_right(self._times, moment)
        self._times.insert(at, moment)
        self._amounts.insert(at, amount)
        self.used += amount
        if len(self._times) > MOST_ENTRIES:
            self._join()

    def take_back(self, moment: float, amount: int, now: float) -> None:
        """Undo an `add` of what was the newest then, unless it has expired.

        It is the first that is not older: what was joined lies at the latest time of its slot.
        """
        if now - moment >= self.rate.seconds:
            return
        at = bisect_left(self._times, moment)
        self._amounts[at] -= amount
        self.used -= amount
        if self._amounts[at] == 0:
            del self._times[at], self._amounts[at]

    @property
    def newest(self) -> float | None:
        """When something was last used, or None."""
        return self._times[-1] if self._times else None

    def entries(self) -> Iterator[tuple[float, int]]:
        """Yield what counts, the oldest first."""
        return zip(self._times, self._amounts, strict=True)

    def _join(self) -> None:
        """Join what lies in the same slot at the latest time in it: it counts longer, not less."""
        length = self.rate.seconds / SLOTS
        times, amounts = array("d"), array("q")
        slot = None
        for moment, amount in self.entries():
            if math.floor(moment / length) == slot:
                times[-1] = moment
                amounts[-1] += amount
            else:
                slot = math.floor(moment / length)
                times.append(moment)
                amounts.append(amount)
        self._times, self._amounts = times, amounts


class Account:
    """What one key, or one user of a key, has used and has under way."""

    __slots__ = ("limits", "requests", "running", "tokens", "whose")

    def __init__(self, whose: str, limits: Limits) -> None:
        self.whose = whose  # "key" or "user", for messages
        self.limits = limits
        self.requests = None if limits.requests is None else Window(limits.requests)
        self.tokens = None if limits.tokens is None else Window(limits.tokens)
        self.running: dict[Admission, tuple[float, int]] = {}  # when admitted, tokens of the prompt

    def expire(self, now: float) -> None:
        """Drop what counts no longer."""
        for window in (self.requests, self.tokens):
            if window is not None:
                window.expire(now)

    @property
    def is_idle(self) -> bool:
        """Whether nothing counts any more, so that it may be forgotten."""
        windows = (self.requests, self.tokens)
        return not self.running and not any(w is not None and w.used for w in windows)

    def used(self, window: Window) -> int:
        """Return how much counts in `window`; prompts under way are tokens too."""
        under_way = self.running.values() if window is self.tokens else ()
        return window.used + sum(amount for _, amount in under_way)

    def reset(self, window: Window, now: float) -> float:
        """Return the seconds until nothing counts in `window`, if what is under way ended now."""
        moments = [moment for moment, _ in self.running.values()] if window is self.tokens else []
        if window.newest is not None:
            moments.append(window.newest)
        return max((moment + window.rate.seconds - now for moment in moments), default=0.0)

    def check(self, prompt_tokens: int, answers: int, now: float) -> None:
        """Raise RateLimitError unless a request fits now; ParameterError if it never will."""
        most = self.limits.concurrent
        if most is not None and answers > most:
            raise ParameterError(
                f"n asks for {answers} answers at once; "
                f"allowed with this {self.whose}: at most {most}"
            )
        under_way = sum(admission.answers for admission in self.running)
        if most is not None and under_way + answers > most:
            raise RateLimitError(
                f"concurrent is at the limit of this {self.whose}, {most}: {under_way} answers are "
                "under way; come back when one has ended",
                limit="concurrent",
                retry_after=SOON,
                headers=_headers([self], now, SOON),
            )
        if self.requests is not None and self.used(self.requests) >= self.requests.rate.amount:
            raise _refusal(self, "requests", self.requests, 1, now)
        if self.tokens is None:
            return
        if prompt_tokens > self.tokens.rate.amount:
            raise ParameterError(
                f"the prompt has {prompt_tokens} tokens; "
                f"allowed with this {self.whose}: at most {self.tokens.rate}"
            )
        if self.used(self.tokens) + prompt_tokens > self.tokens.rate.amount:
            raise _refusal(self, "tokens", self.tokens, prompt_tokens, now)

    def wait(self, window: Window, cost: int, now: float) -> float:
        """Return the seconds until `cost` fits, if all under way ends soon and no more comes."""
        excess = self.used(window) + cost - window.rate.amount
        under_way = self.running.values() if window is self.tokens else ()
        leaves = now
        for moment, amount in sorted([*window.entries(), *under_way]):
            leaves = moment + window.rate.seconds
            excess -= amount
            if excess <= 0:
                break
        wait = leaves - now
        # Up to the next millisecond, so that rounding refuses nobody who comes back in time.
        return math.ceil(wait * 1000) / 1000 if wait > 0 else SOON


def _refusal(account: Account, limit: str, window: Window, cost: int, now: float) -> RateLimitError:
    wait = account.wait(window, cost, now)
    return RateLimitError(
        f"{limit} is at the limit of this {account.whose}, {window.rate}; "
        f"come back in {duration_text(wait)}",
        limit=limit,
        retry_after=wait,
        headers=_headers([account], now, wait),
    )


_Accounts: TypeAlias = "OrderedDict[tuple[str, ...], Account]"  # whoever was last in stands last


class Admission:
    """A request that was let in. Its `with` block is its answer's time.

    `answers`: that it wants. `headers`: what the HTTP answer should carry.
    """

    def __init__(
        self,
        accounts: list[Account],
        moment: float,
        prompt_tokens: int,
        answers: int,
        clock: Callable[[], float],
    ) -> None:
        self.answers = answers
        self._accounts, self._clock = accounts, clock
        self._moment, self._prompt_tokens = moment, prompt_tokens
        self._open = False
        self._enter()

    def _enter(self) -> None:
        self._open = True
        for account in self._accounts:
            account.running[self] = (self._moment, self._prompt_tokens)
            if account.requests is not None:
                account.requests.add(self._moment, 1)
        self.headers = _headers(self._accounts, self._clock())

    def read(self, prompt_tokens: int) -> None:
        """Charge the prompt of a request that was let in before its prompt was looked at.

        Raises as `Gate.admit`; then it is not charged at all, as if it had not been let in.
        """
        whole("prompt_tokens", prompt_tokens, 0, MOST)
        self.withdraw()
        now = self._clock()
        for account in self._accounts:
            account.check(prompt_tokens, self.answers, now)
        self._prompt_tokens = prompt_tokens
        self._enter()

    def finish(self, tokens: int) -> None:
        """Say that the answer has ended, after `tokens` tokens, for whatever reason.

        What is said later is not heard. Raises ParameterError for what is no count.
        """
        whole("tokens", tokens, 0, MOST)
        now = self._clock()
        for account in self._closing():
            if account.tokens is not None:
                account.tokens.add(self._moment, self._prompt_tokens)
                account.tokens.add(now, tokens)
                account.expire(now)

    def withdraw(self) -> None:
        """Say that the request was refused after all, by another part: it is not charged."""
        now = self._clock()
        for account in self._closing():
            account.expire(now)
            if account.requests is not None:
                account.requests.take_back(self._moment, 1, now)

    def _closing(self) -> list[Account]:
        if not self._open:
            return []
        self._open = False
        for account in self._accounts:
            del account.running[self]
        return self._accounts

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End an answer that nobody has ended: its prompt was computed, as far as is known."""
        self.finish(0)


class Gate:
    """Admits requests, or refuses them for what their key or user has used. For one thread."""

    def __init__(
        self,
        *,
        user_limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        most_users: int = MOST_USERS,
    ) -> None:
        """Begin with nothing used.

        user_limits: what each user of a key may have, besides the key's own limits; a client may
        say any user, so they hold for the users of an honest client. clock: seconds that never go
        back. Raises ParameterError.
        """
        check_kind("user_limits", user_limits, (Limits, type(None)), "Limits, or none")
        self._user_limits = user_limits
        self._clock = clock
        self._most_users = whole("most_users", most_users, 1, 10**6)
        self._keys: _Accounts = OrderedDict()
        self._users: _Accounts = OrderedDict()
        self.forgotten = 0  # users who had used something, for want of room

    def admit(
        self,
        key: str,
        limits: Limits,
        *,
        user: str | None = None,
        prompt_tokens: int,
        answers: int = 1,
    ) -> Admission:
        """Let a request in and charge it, or charge nothing and raise.

        key: its id, or one name for all who need none. user: the pseudonym of whom the client asks
        for. prompt_tokens: 0 for what no model computes, and for what `Admission.read` will tell.
        answers: that are wanted. The sizes of the request itself are for Limits.check. Raises
        RateLimitError, and ParameterError for a request that no waiting would help.
        """
        now = self._clock()
        accounts = self._fitting(key, limits, user, prompt_tokens, answers, now)
        for known, name, account in accounts:
            known[name] = account
            known.move_to_end(name)
        found = [account for *_, account in accounts]
        admission = Admission(found, now, prompt_tokens, answers, self._clock)
        self._make_room(now)  # only now: these accounts are no longer idle
        return admission

    def _fitting(
        self,
        key: str,
        limits: Limits,
        user: str | None,
        prompt_tokens: int,
        answers: int,
        now: float,
    ) -> list[tuple[_Accounts, tuple[str, ...], Account]]:
        """Return the accounts that a request would be charged to, if it fits all of them."""
        _check_text("key", key, 0)
        check_kind("limits", limits, Limits, "Limits")
        whole("prompt_tokens", prompt_tokens, 0, MOST)
        whole("answers", answers, 1, MOST)
        who: list[tuple[str, _Accounts, tuple[str, ...], Limits]]
        who = [("key", self._keys, (key,), limits)]
        if user is not None:
            _check_text("user", user, 1)
            if self._user_limits is not None:
                who.append(("user", self._users, (key, user), self._user_limits))
        accounts = []
        for whose, known, name, its in who:
            account = known.get(name)
            if account is None or account.limits != its:
                account = Account(whose, its)
            account.expire(now)
            account.check(prompt_tokens, answers, now)
            accounts.append((known, name, account))
        return accounts

    def _make_room(self, now: float) -> None:
        """Forget who is idle, a few at a time, and users beyond those that are remembered."""
        for known in (self._keys, self._users):
            for name in list(itertools.islice(known, 2)):
                known[name].expire(now)
                if known[name].is_idle:
                    del known[name]
        for _ in range(len(self._users) - self._most_users):
            away = next((name for name, a in self._users.items() if not a.running), None)
            if away is None:  # so many answers under way: they end
                break
            del self._users[away]
            self.forgotten += 1


def duration_text(seconds: float) -> str:
    """Return a span as OpenAI's headers have it, rounded up to milliseconds: 6m0s, 8.64s, 20ms."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds < 1000:
        return f"{max(milliseconds, 0)}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _headers(accounts: list[Account], now: float, wait: float | None = None) -> dict[str, str]:
    """Return the headers that tell of limits: of several accounts, the one with the least left."""
    headers = {}
    for kind in ("requests", "tokens"):
        left = []
        for account in accounts:
            window: Window | None = getattr(account, kind)
            if window is not None:
                remaining = max(window.rate.amount - account.used(window), 0)
                left.append((remaining, window.rate.amount, account.reset(window, now)))
        if left:
            remaining, amount, reset = min(left)
            headers[f"x-ratelimit-limit-{kind}"] = str(amount)
            headers[f"x-ratelimit-remaining-{kind}"] = str(remaining)
            headers[f"x-ratelimit-reset-{kind}"] = duration_text(reset)
    if wait is not None:
        headers["retry-after"] = str(math.ceil(wait))
    return headers


def _check_text(name: str, value: object, least: int) -> None:
    if not (isinstance(value, str) and least <= len(value) <= MOST_NAME):
        raise refused(name, value, f"a str of {least} to {MOST_NAME} characters")
