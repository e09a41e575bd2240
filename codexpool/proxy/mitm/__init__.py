"""The process around it: mitmproxy's options, versions, shutdown, logs, content view."""
