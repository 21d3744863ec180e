"""The instrument of our figures: every rate stands beside a floor of the same run. `scripts/bench`."""
