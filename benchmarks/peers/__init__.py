"""Scripts that run in the peers' own environments, with nothing of ours in them.

Each gets a database's URL, a file with the state ([region, sdk_app_id, slot, name] a line), a
folder of its own, and prints how long its compare-and-record step took, once everything is
imported.
"""
