"""How fast it is, measured beside others on the same machine: `make bench`. Never a timed test."""
