"""The parts of the command `im-attr-audit`, one module a subcommand; `cli` puts them together."""
