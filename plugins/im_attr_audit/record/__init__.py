"""Keeping: the record in Postgres, its rules, its migrations and its verification."""
