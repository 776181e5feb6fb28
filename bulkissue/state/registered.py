"""One run's entry in the register. It must never be taken for the run's own word: journals are the truth."""

from pathlib import Path

import msgspec

from bulkissue.errors import StateRefused
from bulkissue.files import identity


class Registered(msgspec.Struct, frozen=True):
    """
    One run in the register.

    Attributes:
        run_id: The run.
        run_dir: Where its folder is, absolute.
        target: As in `_bi_target`.
        started_at: ISO 8601, UTC.
        journal: Whether its journal was made. Until then it can have sent nothing.
        state: `open` while it may send, `recovered` after a crash once its journal was read into history,
            `settled` once it has ended and its history is written, `lost` once a person's word stands for its journal.
        commits: How often its journal had been written when this entry was.
        file: The journal's `files.identity`; a copy has another. Empty where it is not known yet.
        number: Of the run, by the state folder's count; 0 for runs of an early version.
        history_file: Its history file's `files.fingerprint`; empty where it is not known.
    """

    run_id: str
    run_dir: str
    target: str
    started_at: str
    journal: bool = False
    state: str = "open"
    commits: int = 0
    file: str = ""
    number: int = 0
    history_file: str = ""

    def refuse_copy(self, journal: Path, commits: int) -> None:
        """
        Refuse a journal that may lack what this run sent: an older copy of the run folder, put in its place.

        Args:
            journal: The journal's file.
            commits: How often it was written, by its own count.

        Raises:
            StateRefused: It was written less often than the register knows of; or the run crashed, and this is not
                the file it was writing, so nobody can tell what is missing.
        """
        behind = commits < self.commits
        other = self.state in {"open", "recovered"} and self.file not in {"", identity(journal)}
        if behind or other:
            raise StateRefused(
                f"{journal} is {'older than what run ' + self.run_id + ' did' if behind else 'a copy'}: "
                f"run {self.run_id} may have sent more than it tells",
                hint="put back the run folder itself; a copy of it made earlier will not do",
            )
