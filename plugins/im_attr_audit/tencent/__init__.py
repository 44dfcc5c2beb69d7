"""Asking: the vendor's hosts, signatures, error codes, answers, and the client."""
