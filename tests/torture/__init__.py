"""The fault campaigns: each module states its invariant, takes a seed and a budget, and counts."""
