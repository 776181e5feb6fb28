"""
Plan and journal become what people read: four ledgers, counts and the report.

Derived, never a source: it can run at any time, twice, after a crash, and gives the same files. It never decides what
became of a row; the journal says that.
"""
