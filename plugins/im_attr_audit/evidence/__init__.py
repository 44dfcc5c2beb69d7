"""What an outsider can check: seals, checkpoints, witnesses, proofs. Knows no database."""
