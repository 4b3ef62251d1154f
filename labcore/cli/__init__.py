"""The command line: `lab` and `python -m labcore.cli`; one module for each group of commands."""
