"""The servers in memory do what the real ones do: the same tests, and the same random calls, on both."""
