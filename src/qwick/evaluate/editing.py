"""A task that quotes: a file of code to be repeated with one small change.

What `speed.measure_drafts` is run on. The text is fixed, so that figures stay comparable: about 600
tokens of code for the family's tokenizers. Knows no model.
"""

from __future__ import annotations

CODE = '''\
"""A small ledger: accounts, bookings, balances."""

from dataclasses import dataclass, field
from datetime import date


class LedgerError(Exception):
    """Something that a ledger refuses."""


@dataclass(frozen=True)
class Booking:
    """Money that moved from one account to another."""

    day: date
    source: str
    target: str
    cents: int
    note: str = ""


@dataclass
class Ledger:
    """Accounts by name, and every booking in order of its day."""

    accounts: dict[str, int] = field(default_factory=dict)
    bookings: list[Booking] = field(default_factory=list)

    def open(self, name: str, cents: int = 0) -> None:
        """Open an account with a first balance."""
        if not name.strip():
            raise LedgerError("an account needs a name")
        if name in self.accounts:
            raise LedgerError(f"there is an account {name} already")
        self.accounts[name] = cents

    def book(self, booking: Booking) -> None:
        """Move money, if both accounts exist and the source has enough of it."""
        for name in (booking.source, booking.target):
            if name not in self.accounts:
                raise LedgerError(f"there is no account {name}")
        if booking.cents <= 0:
            raise LedgerError("only a positive amount can be booked")
        if self.accounts[booking.source] < booking.cents:
            raise LedgerError(f"{booking.source} holds too little for that")
        self.accounts[booking.source] -= booking.cents
        self.accounts[booking.target] += booking.cents
        self.bookings.append(booking)
        self.bookings.sort(key=lambda entry: entry.day)

    def between(self, first: date, last: date) -> list[Booking]:
        """Return the bookings of a span of days, both ends included."""
        return [entry for entry in self.bookings if first <= entry.day <= last]

    def turnover(self, name: str) -> tuple[int, int]:
        """Return what an account received and what it paid."""
        received = sum(entry.cents for entry in self.bookings if entry.target == name)
        paid = sum(entry.cents for entry in self.bookings if entry.source == name)
        return received, paid

    def statement(self, name: str) -> str:
        """Return the bookings of an account as lines of text, the balance last."""
        lines = []
        for entry in self.bookings:
            if entry.target == name:
                lines.append(f"{entry.day} {entry.cents:>12} from {entry.source} {entry.note}")
            elif entry.source == name:
                lines.append(f"{entry.day} {-entry.cents:>12} to {entry.target} {entry.note}")
        lines.append(f"balance {self.accounts[name]:>12}")
        return "\\n".join(lines)
'''

TASK = (
    "Here is a Python file:\n\n```python\n"
    + CODE
    + "```\n\nRename the method `between` to `in_span`, and give back the whole file with that "
    "change and no other. Answer with the code only."
)
