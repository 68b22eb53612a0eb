"""Decides; never waits."""
