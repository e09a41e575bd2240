"""Recordings to share: requests without bodies, and with a pseudonym for every value that identifies a person."""
