"""A mitmproxy addon that sends each Codex request under an identity of a pool."""

__version__ = "0.1.0"
