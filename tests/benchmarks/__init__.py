"""Tests of what the benchmark computes and prints; nothing here is timed."""
