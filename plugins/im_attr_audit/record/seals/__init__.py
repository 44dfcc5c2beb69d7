"""Seals: rows hashed into a signed checkpoint, and the stored rows compared with it again."""
