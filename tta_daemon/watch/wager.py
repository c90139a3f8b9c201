"""A bet that the adapted model is better, or worse, than the source: evidence that may be looked at at any time."""

SURE = 20.0
"""Wealth at which a bet is won: by chance that happens once in as many bets, however long they run (Ville 1939)."""

STAKE = 0.2
"""Share of its wealth that a bet stakes on every image on which the two models differ."""

POOREST = 0.01
"""What a bet is lent where it has lost all: evidence of long ago does not bind for ever."""


class Wager:
    """Bets on labeled images, one for each side (a test martingale; Waudby-Smith and Ramdas 2024).

    >>> wager = Wager()
    >>> [wager.saw(adapted=0, source=1) for _ in range(20)].index("worse")
    16
    """

    def __init__(self) -> None:
        self.better = self.worse = 1.0

    def saw(self, adapted: int, source: int) -> str:
        """Labels came: how many images each had right. "better" or "worse" where a bet on that is won; else empty."""
        difference = max(-4, min(4, adapted - source))  # no single record decides
        self.better = max(POOREST, self.better * (1.0 + STAKE * difference))
        self.worse = max(POOREST, self.worse * (1.0 - STAKE * difference))
        won = "better" if self.better >= SURE else "worse" if self.worse >= SURE else ""
        if won:
            self.better = self.worse = 1.0
        return won
