"""What is swallowed so that a request goes on is still told to whoever debugs it."""

from __future__ import annotations

import logging

import pytest

from litellm_resilience.repairs.base import log_unexpected


def test_a_swallowed_exception_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="swallowed"):
        try:
            dict[str, str]().pop("unforeseen")
        except KeyError:
            log_unexpected(logging.getLogger("swallowed"))
    assert "KeyError: 'unforeseen'" in caplog.text
