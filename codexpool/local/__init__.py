"""The proxies and certificate authorities of this machine, as files."""
