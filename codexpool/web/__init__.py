"""What `http://codex.pool/` serves through the proxy: a page, the same as JSON, and metrics."""
