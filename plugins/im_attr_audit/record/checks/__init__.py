"""Whether the record is still what was recorded: its chains, its rows, heads kept elsewhere."""
