"""Recordings that can be shared: flow files and HAR files with stand-ins in place of whatever is somebody's.

Knows nothing of the pool. `recorder` records what passes through a proxy, `recording` makes a file of flows.
"""
