"""The page: a FastAPI application with a JSON API, and the static files that draw it.

``app`` wires and guards. ``routes`` has one module a view, ``filters`` what they may be asked,
``models`` what they answer. ``queries`` runs the statements of ``sql/``,
``reader`` holds the connection to the audit database. ``downloads`` and ``checks`` are what many
may ask for at once.
"""
