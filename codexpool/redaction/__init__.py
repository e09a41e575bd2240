"""What may be shown of a value: secrets become a kind, a length and a fingerprint."""
