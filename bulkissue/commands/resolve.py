"""
Resolve: settle unknown rows by a person's word.

It must never settle a row that is not unknown.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from bulkissue.commands.reopening import closed_on_trouble, halt_of, reopened
from bulkissue.commands.session import Result, Watch, ending_of, now_ms
from bulkissue.job import loading
from bulkissue.outcomes import Outcome
from bulkissue.results import derivation
from bulkissue.settle.by_hand import Word, settlements


def resolve(folder: Path, words: Sequence[Word], watch: Watch) -> Result:
    """
    Settle unknown rows by a person's word; ledgers, counts and history follow.

    Raises:
        UsageRefused: A word names a row that is not unknown, or contradicts another; nothing is settled then.
        BulkissueError: The target is locked, or the run folder cannot be trusted.
    """
    loaded = loading.load(folder / "job.toml", environ={})
    with reopened(folder, loaded, watch) as session:
        halt = halt_of(session.manifest)
        with closed_on_trouble(session.journal):
            frames = derivation.frames(derivation.Run.of(folder, session.manifest), session.journal, ending_of(halt))
            session.journal.write(settlements(words, session.manifest.run_id, _open_to_words(frames), now_ms()))
        return session.settle(halt)


def _open_to_words(frames: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """The rows of which a person can say what became of them, or has said it."""
    columns = ["_bi_place", "_bi_source_file", "_bi_row", "_bi_reason"]
    open_rows = (pl.col("_bi_outcome") == Outcome.UNKNOWN) | pl.col("_bi_reason").str.starts_with("resolve.")
    chosen = [frame.filter(open_rows).select(columns) for frame in frames]
    return pl.concat(chosen) if chosen else pl.DataFrame(schema=columns)
