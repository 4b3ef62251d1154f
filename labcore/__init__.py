"""labcore."""
