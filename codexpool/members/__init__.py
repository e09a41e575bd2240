"""Who may use a pool besides its operator, how much, and what each has used."""
