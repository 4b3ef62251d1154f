"""Rehearsal: a check, in minutes, of whether a full-size run will work, fit into memory and finish."""
