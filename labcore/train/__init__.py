"""Training: one loop that counts steps, for every objective of the lab."""
