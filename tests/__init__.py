"""Tests of litellm-resilience."""
