"""Campaigns: notebooks run headless from a spec, swept, resumed, queued, published. Independent of flows and of torch."""
