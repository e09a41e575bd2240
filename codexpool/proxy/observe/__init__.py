"""Observe mode: requests leave as they came, and what the pool would have done is noted."""
