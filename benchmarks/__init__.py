"""Bare mitmdump against mitmdump with the addon: same upstream, interleaved, as ratios. `python -m benchmarks`."""
