"""How all tests run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# What these assert is told in full, as in a test.
pytest.register_assert_rewrite("gitrepo", "merging", "sharing", "installing", "loading", "seeing", "serving", "small_models", "terminal")

# No test asserts a time: machines differ and are shared. A longer search: GIT_THETA_TEST_EXAMPLES=10000 python -m pytest tests/unit/core
settings.register_profile("git-theta", deadline=None, print_blob=True, max_examples=int(os.environ.get("GIT_THETA_TEST_EXAMPLES", "60")))
settings.load_profile("git-theta")
