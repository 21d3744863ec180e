"""The worker in virtual time: real code against small servers in memory, and a seed that reproduces every run."""
