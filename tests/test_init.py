"""A first job file from five answers."""

import pytest
from scene import Scene
from terminal import Terminal

ROWS = [("C-1", "919986000501", "mira@example.com", "Mira"), ("C-2", "919986000502", "bob@example.com", "Bob")]


@pytest.fixture
def scene(tmp_path, service, write_input):
    write_input(["Customer ID", "Mobile No", "E-mail", "Name"], ROWS, name="members.csv")
    return Scene(tmp_path, service)


def answered(scene, *answers, out="members.toml"):
    typed = "\n".join(answers) + "\n"
    return scene.do("init", "members.csv", "--out", out, stdin=typed)


def test_from_a_file_to_a_run(scene):
    """The job that it writes loads, says what the person said, and issues to exactly the file's customers."""
    base_url = scene.service.base_url
    ended = answered(
        scene, "earn", "469", "69218", "-", "-", "Mobile No", "E-mail", "-", "-", "IN", "INSTORE", base_url
    )
    assert ended.code == 0, ended.err
    assert "2 rows in all" in ended.out
    assert not any(cell in ended.out + ended.err for row in ROWS for cell in row[1:3])
    assert "919999999901"[:2] in ended.err
    text = (scene.folder / "members.toml").read_text()
    assert 'ignore = ["Customer ID"]' in text
    assert 'mobile = "Mobile No"' in text
    assert 'region = "IN"' in text
    assert scene.do("check", "members.toml").code == 0
    run = scene.do("run", "members.toml", "--yes", "--json")
    assert run.counts == {"rows": 2, "succeeded": 2}


@pytest.mark.parametrize(
    ("action", "target", "key"),
    [("coupon", ["544770"], "series_id = 544770"), ("cart", ["67dd42"], 'promotion_id = "67dd42"')],
)
def test_every_action_is_asked_for_what_it_needs(scene, action, target, key):
    """A coupon needs its series, a cart promotion the text of its promotion, and no more is asked."""
    columns = {"coupon": ["-", "Mobile No", "-", "-", "-"], "cart": ["Customer ID", "-"]}[action]
    rest = ["-", "INSTORE"] if action == "coupon" else ["INSTORE"]
    ended = answered(scene, action, *target, *columns, *rest, scene.service.base_url)
    assert ended.code in {0, 5}, ended.err
    assert key in (scene.folder / "members.toml").read_text()


def test_nothing_is_written_over(scene):
    """A file that is there stays, and a file that cannot be read is refused before anything is asked."""
    (scene.folder / "members.toml").write_text("mine")
    assert answered(scene, "earn").code == 2
    assert (scene.folder / "members.toml").read_text() == "mine"
    (scene.folder / "members.csv").write_text("")
    refused = answered(scene, out="other.toml")
    assert (refused.code, "is empty" in refused.err) == (4, True)


def test_on_a_terminal(scene):
    """A wrong column is asked for again, and what was guessed is taken by the return key."""
    terminal = Terminal("init", "members.csv", cwd=scene.folder, columns=100)
    terminal.until("1. What every customer gets")
    for line in ("", "469", "69218", "", "", "nonsense", "", "", "", "", "", "", ""):
        terminal.type(line)
    assert terminal.end() == 0
    assert any("nonsense" in line for line in terminal.lines)
    assert 'base_url = "https://eu.api.example.com"' in (scene.folder / "members.toml").read_text()
