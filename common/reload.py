"""SIGHUP: the configuration is read again. What may change while the process runs does; of the rest it is said that it
waits for a restart. A configuration that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from common import config as configuration
from common import log
from common.config_schema import NodeConfig

Takers = Mapping[str, Callable[[NodeConfig], None]]
"""By key: what makes its new value hold."""

_log = log.get(__name__)


class Reload:
    """`program`, `role`, `words`: as the process was started; `config`: what it runs with; `minds`: the keys that it
    goes by, of all of them. One thread calls."""

    def __init__(
        self,
        program: str,
        role: str | None,
        words: Sequence[str],
        config: NodeConfig,
        takers: Takers,
        minds: Collection[str] | None = None,
    ) -> None:
        self._program, self._role, self._words = program, role, words
        self._running = configuration.plain_leaves(config)
        self._takers: Takers = {"log.level": _take_level, **takers}
        self._minds = self._running.keys() if minds is None else minds

    def __call__(self) -> NodeConfig | None:
        """What was read; None when it was refused."""
        found = configuration.read_again(self._program, self._role, self._words)
        if found.config is None:
            _log.error(
                "config.refused",
                file=str(found.file),
                problems=[str(one) for one in found.problems],
                next=f"dfsctl config check {found.file}; what ran goes on as it was",
            )
            return None
        wanted = configuration.plain_leaves(found.config)
        differs = [key for key, value in wanted.items() if key in self._minds and value != self._running[key]]
        changed: dict[str, list[Any]] = {}
        for key in [one for one in differs if one in self._takers]:
            self._takers[key](found.config)
            changed[key] = [self._running[key], wanted[key]]
            self._running[key] = wanted[key]
        later = [key for key in differs if key not in changed]
        tell = _log.warning if later else _log.info
        tell("config.reloaded", file=str(found.file), changed=changed, needs_restart=later)
        return found.config


def _take_level(config: NodeConfig) -> None:
    log.levels.set(config.log.level)
