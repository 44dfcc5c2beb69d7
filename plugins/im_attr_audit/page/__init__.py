"""The page: a FastAPI application with a JSON API, and the static files that draw it.

``app`` wires and guards, ``api`` has the endpoints and ``models`` their answers, ``queries`` is the
only module of the page that speaks SQL, ``reader`` holds the connection to the audit database.
"""
