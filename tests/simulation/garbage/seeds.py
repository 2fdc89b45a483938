"""Seeds that have found something, each with a sentence; kept as long as what a seed chooses stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

SEEDS: Mapping[int, str] = {
    45: "a restore from quarantine in a history that was left kept garbage of the next one for ever",
}
