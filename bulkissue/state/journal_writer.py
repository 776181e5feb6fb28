"""
Group commit: entries of several lanes go into the journal together, one fsync for all of them.

It must never tell a lane that its entry is durable before the commit has returned.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from bulkissue.errors import StateRefused
from bulkissue.failpoint import reached
from bulkissue.state.entries import Answer, Entry, Intent
from bulkissue.state.protocols import RunJournal
from bulkissue.state.reserve import Reserve

_Note = tuple[Entry, asyncio.Future[None] | None]


class JournalWriter:
    """
    The one writer of a journal while lanes are running. Entries are written in the order in which they come.

    Args:
        journal: The journal.
        reserve: Room that is given back when the disk is full, so that what is on its way can still be noted.

    While a commit is under way the next entries gather. SQLite runs in a thread of its own, so that an
    fsync holds up nobody's answer.
    """

    def __init__(self, journal: RunJournal, reserve: Reserve | None = None) -> None:
        self._journal = journal
        self._reserve = reserve or Reserve(None)
        self._gathered: list[_Note] = []
        self._committing: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None
        self._refused: set[int] = set()  # attempts whose intent is not on the disk
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def note(self, entry: Entry) -> None:
        """
        Return once the entry is on the disk.

        Raises:
            StateRefused: It could not be written. No intent is taken after that; what came of those that
                are under way still is, if the disk allows.
        """
        # A future of its own: a lane that is cancelled takes nobody else's with it.
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gather(entry, durable)
        await durable

    def put(self, entry: Entry) -> None:
        """Have the entry written, and do not wait for it; whether it was is what `close` and the next `note` tell."""
        self._gather(entry, None)

    def _gather(self, entry: Entry, durable: asyncio.Future[None] | None) -> None:
        self._gathered.append((entry, durable))
        if self._committing is None:
            self._committing = asyncio.get_running_loop().create_task(self._commit())

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._gathered:
            taken: list[_Note] = []
            trouble: Exception | None = None
            try:
                # Whoever is about to note something comes along: a commit for each would cost more than the sending.
                await asyncio.sleep(0)
                taken = self._take()
                await loop.run_in_executor(self._thread, self._journal.write, [entry for entry, _ in taken])
            except asyncio.CancelledError:
                # The whole program is being torn down: nobody may wait for ever for what is not known any more.
                self._trouble = StateRefused("the journal was given up in the middle of a commit")
                _tell([*taken, *self._gathered], self._trouble)
                self._gathered, self._committing = [], None
                raise
            except Exception as failure:  # noqa: BLE001 - whatever it is, every waiting lane must hear of it
                trouble = failure
                self._trouble = self._trouble or failure
                self._refuse(taken)
                if self._reserve.give_back():
                    # With that room the answers that came along are noted after all; none of the intents is.
                    again = [note for note in taken if not isinstance(note[0], Intent)]
                    self._gathered = [*again, *self._gathered]
                    taken = [note for note in taken if isinstance(note[0], Intent)]
            else:
                for entry, _ in taken:
                    if isinstance(entry, Answer):
                        reached("answer.noted")
            _tell(taken, trouble)
        self._committing = None

    def _take(self) -> list[_Note]:
        taken, self._gathered = self._gathered, []
        if self._trouble is None:
            return taken
        # An intent that got through now would be sent, although the journal has just lost an entry. What was said of
        # one that did not, as that it was given up, fits nowhere, and would take the other lanes' answers with it.
        self._refuse(taken)
        lost = [note for note in taken if isinstance(note[0], Intent | Answer) and note[0].attempt in self._refused]
        _tell(lost, self._trouble)
        return [note for note in taken if note not in lost]

    def _refuse(self, notes: list[_Note]) -> None:
        self._refused.update(entry.attempt for entry, _ in notes if isinstance(entry, Intent))

    async def close(self) -> None:
        """
        Wait for the last commit and let the thread go, also where the caller is cancelled meanwhile.

        Raises:
            StateRefused: An entry could not be written, be it one that nobody waited for.
        """
        try:
            if self._committing is not None:
                await asyncio.shield(self._committing)
        finally:
            self._thread.shutdown()  # waits: nobody may close the journal under a commit
        if self._trouble is not None:
            raise self._trouble


def _tell(notes: list[_Note], trouble: Exception | None) -> None:
    for _, durable in notes:
        if durable is None or durable.done():  # nobody waits, or not any more
            continue
        if trouble is None:
            durable.set_result(None)
        else:
            durable.set_exception(trouble)
            durable.exception()  # a lane that is cancelled just now does not come back to hear of it
