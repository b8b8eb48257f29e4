"""What latency does to driving: the same routes driven at several latencies, and what came of it."""
