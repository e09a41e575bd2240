"""What a secret is: a bearer token, a JSON Web Token's claims, a member's key. No I/O."""
