"""A simulated vendor, run as a process of its own: ``python -m simulator``.

It speaks HTTPS on loopback, one port per region, refuses what the vendor would refuse, and can be
made to misbehave from outside. Its log of what it truly answered is what the tests believe.
``control.Simulator`` starts and steers it; ``story`` is what a newcomer sees without any target.
Nothing in here imports the product: what checks it must not share its mistakes.
"""
