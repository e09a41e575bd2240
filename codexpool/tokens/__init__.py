"""What a secret is: a bearer token, a JSON Web Token's claims, an agent's key, a member's key. No I/O."""
