"""Rehearsal: whether a full-size run will work, fit and finish, found out in minutes before it starts."""
