"""Faults on purpose: real servers, killed processes, broken links, and a checker that reads what really happened."""
