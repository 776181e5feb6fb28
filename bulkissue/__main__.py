"""`python -m bulkissue`: the command line."""

from bulkissue.cli.main import entry

if __name__ == "__main__":
    entry()
