"""Codex on the wire, as data and pure functions: endpoints, routes, headers, frames, errors, limits."""
