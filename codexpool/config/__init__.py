"""pool.toml: found, read, checked, watched, and edited in place."""
