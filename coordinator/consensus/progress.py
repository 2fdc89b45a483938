"""How far a leader has brought one peer, and what it may send next. Pure.

1. `match` only grows, and only by what the peer acknowledged in this very term.
2. `next` runs ahead of it: entries are sent before the earlier ones are acknowledged, up to a window.
3. A refusal sets `next` back, once: those that were sent before the setting back are refused too, and mean nothing
   more. Which ones they are is told by the round (beat) that the answer echoes.
4. A muted peer (memory.py) only tells what it has: it is sent what follows, and counts for nothing.
5. A peer of which this leader knows that it was set back is doubted until it is muted: what it acknowledged before it
   was told so counts for nothing either.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_ENTRIES = 1024


@dataclass(slots=True)
class Progress:
    """Of one peer in one leadership; `next` is the index to send next."""

    next: int
    match: int = 0
    deaf_until_beat: int = 0
    told: int = 0
    doubted: bool = False

    def acknowledged(self, through: int) -> bool:
        """The peer has everything up to `through`; True when that is news."""
        news = through > self.match
        self.match = max(self.match, through)
        self.next = max(self.next, self.match + 1)
        return news

    def heard(self, through: int) -> None:
        """The peer says that it has everything up to `through`, and that it is muted."""
        self.doubted = False
        self.told = max(self.told, through)
        self.next = max(self.next, through + 1)

    def refused(self, go_on_from: int, beat: int, last_beat: int) -> None:
        """The peer could not follow a message of round `beat`; rounds up to `last_beat` are under way."""
        if beat <= self.deaf_until_beat or go_on_from >= self.next:
            return
        self.next = max(self.match + 1, go_on_from)
        self.deaf_until_beat = last_beat

    def lost_contact(self) -> None:
        """The connection was lost, and with it what was under way."""
        self.next = self.known + 1 if self.known else self.next

    @property
    def known(self) -> int:
        """What the peer has; 0: nothing is known yet."""
        return max(self.match, self.told)

    @property
    def window(self) -> int:
        """How many entries may be sent now."""
        return max(0, WINDOW_ENTRIES - (self.next - 1 - self.known)) if self.known else 1


def agreed(matches: list[int]) -> int:
    """The highest index that a majority of the voters has; one value per voter."""
    return sorted(matches, reverse=True)[len(matches) // 2]
