"""Speed as ratios within one run: `scripts/bench`."""
