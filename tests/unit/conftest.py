"""Settings of all unit tests."""

from __future__ import annotations

from hypothesis import settings

# No test asserts a time: the machine may have other things to do.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
