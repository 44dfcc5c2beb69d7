"""Declared names: which names the apps of a group are meant to have. Pure: no I/O, no clock.

`parse` reads a document (YAML or JSON), `model` has what it declares, `judge` has what it makes a
violation, `first` writes a first one, and ``declared_names.schema.json`` is its form for editors.
"""
