"""
What the service knows is read: to settle unknown rows, to look customers up, to hold samples against it.

Also the other way to settle, a person's word (`by_hand`). It never sends anything that issues, and never settles a
row without evidence.
"""
