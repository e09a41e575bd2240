"""What runs beside requests: tokens, renewals, verification, pool.toml watched and flagged, the state kept."""
