"""How all tests run."""

from __future__ import annotations

import os

from hypothesis import settings

# No test asserts a time: machines differ and are shared. A longer search: GIT_THETA_TEST_EXAMPLES=10000 python -m pytest tests/unit/core
settings.register_profile("git-theta", deadline=None, print_blob=True, max_examples=int(os.environ.get("GIT_THETA_TEST_EXAMPLES", "60")))
settings.load_profile("git-theta")
