"""Free functions under the models: the arithmetic that is worth timing, each with one torch reference."""
