"""How Hypothesis runs here: the same examples in every change, others in each long run; no judgement by the clock."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("change", _unhurried, derandomize=True)
settings.register_profile("soak", _unhurried, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "change"))
