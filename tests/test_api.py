"""What other programs import: the commands as functions."""

import subprocess
import sys
import threading

import pytest
from conftest import ENVIRON
from scene import MOBILES

import bulkissue
from bulkissue.api import Word
from bulkissue.errors import SettingsRefused
from bulkissue.sandbox import Fault


@pytest.fixture
def job(service, write_input, write_job):
    """A job over 30 mobiles whose second request is lost."""
    write_input(["mobile"], MOBILES[:30])
    service.order(Fault(kind="drop", when="after", nth=(2,), route="bulk"))
    return bulkissue.load_job(write_job(service.base_url, limits={"batch_size": 10, "concurrency": 1}), environ={})


def test_a_run_and_what_follows(job, service):
    """Run, status, verify, reconcile, resolve, history and retry, without the command line."""
    ended = bulkissue.run(job, confirmed=True, environ=ENVIRON)
    assert ended.exit_code is bulkissue.ExitCode.UNKNOWN_ROWS
    assert {name: count for name, count in ended.manifest.counts.items() if count} == {
        "rows": 30,
        "succeeded": 20,
        "unknown": 10,
    }
    assert bulkissue.status(ended.folder).state == "completed"
    assert bulkissue.verify(ended.folder) == []
    looked = bulkissue.reconcile(ended.folder, dry_run=True, environ=ENVIRON)
    assert looked.account.unknown == 10
    words = [Word("", row, "not-issued", "Asha", "ticket 4711") for row in range(11, 21)]
    settled = bulkissue.resolve(ended.folder, words)
    assert settled.manifest.counts["failed"] == 10
    again = bulkissue.retry(ended.folder, confirmed=True, environ=ENVIRON)
    assert again is not None
    assert again.manifest.counts["succeeded"] == 10
    assert len(bulkissue.history(job, MOBILES[0][0])) == 1
    assert bulkissue.resume(again.folder, environ=ENVIRON).exit_code is bulkissue.ExitCode.OK
    assert len(service.issued()) == 40  # a person's word was wrong, and that is on their name


def test_nothing_is_sent_unconfirmed(job, service):
    """Without a word that it may send, it does not."""
    with pytest.raises(SettingsRefused):
        bulkissue.run(job, environ=ENVIRON)
    assert not service.issued()


def test_in_a_thread(job):
    """Where signals cannot be taken, as in a worker of another program, it runs all the same."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(bulkissue.run(job, confirmed=True, environ=ENVIRON)))
    thread.start()
    thread.join(60)
    assert [one.manifest.counts["succeeded"] for one in ended] == [20]


def test_the_package_is_light():
    """Importing it imports none of its rooms; a name it does not have is said so."""
    code = "import sys, bulkissue; print(sorted(n for n in sys.modules if n.startswith(('bulkissue.', 'polars'))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError):
        bulkissue.nothing  # noqa: B018
    assert set(bulkissue.__all__) <= {*dir(bulkissue), *bulkissue._HOMES}
