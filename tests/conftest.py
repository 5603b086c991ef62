"""How long properties are looked for: HYPOTHESIS_PROFILE=nightly takes an hour, not a minute."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("normal", max_examples=200, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))
