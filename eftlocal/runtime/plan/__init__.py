"""Plans what fits in memory and where each member runs: threads, memory and devices."""
