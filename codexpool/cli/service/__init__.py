"""A proxy that starts by itself: the file of a systemd user unit or launchd agent, and the manager that runs it."""
