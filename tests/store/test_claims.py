import errno
import subprocess
import sys
import threading
import time

import filelock
import pytest

from attrbench.store.locks import Claims

HOLDER = """
import sys
from pathlib import Path
from attrbench.store.locks import Claims
with Claims(Path(sys.argv[1])).claim(int(sys.argv[2]), wait=False) as ours:
    print(ours, flush=True)
    sys.stdin.readline()
print("let go", flush=True)
sys.stdin.readline()
"""


class Other:
    """Another process, which claims a piece and holds it until it is told to let go."""

    def __init__(self, path, piece):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), str(piece)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ours = self.process.stdout.readline().strip() == "True"

    def let_go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "let go"

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "claims" / "work"


@pytest.fixture
def other(path):
    """Holds piece 64."""
    holder = Other(path, 64)
    assert holder.ours
    yield holder
    holder.kill()


def claimed(path, piece, wait=False):
    with Claims(path).claim(piece, wait) as ours:
        return ours


@pytest.mark.parametrize("wait", [False, True])
def test_within_one_process_every_claim_succeeds(path, wait):
    first, second = Claims(path), Claims(path)
    with first.claim(0, wait) as a, first.claim(64, wait) as b, first.claim(0, wait) as c, second.claim(0, wait) as d:
        assert (a, b, c, d) == (True, True, True, True)
    with first.claim(0, wait) as again:
        assert again
    with first.claim(0, wait) as reopened:
        assert reopened


def test_piece_that_another_process_holds_is_not_ours_and_all_others_are(path, other):
    claims = Claims(path)
    for piece in (0, 1, 63, 64, 65, 2**40):
        with claims.claim(piece, wait=False) as ours:
            assert ours == (piece != 64)


def test_another_work_has_claims_of_its_own(path, other):
    assert claimed(path.with_name("another work"), 64)


def test_piece_is_ours_once_the_other_process_has_let_it_go(path, other):
    assert not claimed(path, 64)
    other.let_go()
    assert claimed(path, 64)


def test_killed_process_lets_go(path, other):
    assert not claimed(path, 64)
    other.kill()
    assert claimed(path, 64)


def test_claim_that_is_not_ours_leaves_the_other_process_its_own(path, other):
    for _ in range(2):
        assert not claimed(path, 64)


@pytest.mark.parametrize("how", ["let_go", "kill"])
def test_waiting_claim_is_ours_when_the_other_process_has_let_go_and_not_before(path, other, how):
    freed = []

    def free():
        freed.append(time.monotonic())
        getattr(other, how)()

    timer = threading.Timer(0.3, free)
    timer.start()
    assert claimed(path, 64, wait=True)
    assert freed and time.monotonic() >= freed[0]
    timer.join()


def gets(path, piece):
    """Whether another process gets a claim."""
    other = Other(path, piece)
    other.kill()
    return other.ours


def test_what_we_hold_no_other_process_gets_until_we_let_go(path):
    claims = Claims(path)
    with claims.claim(64, wait=False):
        assert not gets(path, 64)
        assert gets(path, 0)
    assert gets(path, 64)


def test_letting_go_of_one_piece_keeps_the_others(path):
    claims = Claims(path)
    with claims.claim(64, wait=False):
        for piece in (0, 63, 65, 128):
            with claims.claim(piece, wait=False):
                pass
        assert not gets(path, 64)


def test_work_that_fails_lets_go(path):
    claims = Claims(path)
    with pytest.raises(KeyError), claims.claim(64, wait=False):
        raise KeyError
    assert gets(path, 64)


def test_file_that_cannot_be_made_gives_everyone_every_claim(tmp_path):
    (tmp_path / "file").write_text("")
    claims = Claims(tmp_path / "file" / "folder" / "work")
    for wait in (False, True):
        with claims.claim(3, wait) as ours:
            assert ours


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EROFS, errno.EINVAL])
def test_file_system_without_locks_gives_everyone_every_claim(path, monkeypatch, code, wait):
    def refuse(*_, **__):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert claimed(path, 3, wait)


def test_no_lock_file_is_left_behind(path, other):
    for piece in (0, 64, 64):
        claimed(path, piece)
    other.let_go()
    assert claimed(path, 64)
    assert not list(path.parent.iterdir())


def test_lock_that_was_waited_for_is_ours_alone(path, other):
    """The other process removes the file that we wait for: we must not hold one that nobody else sees."""
    timer = threading.Timer(0.3, other.let_go)
    timer.start()
    claims = Claims(path)
    with claims.claim(64, wait=True) as ours:
        assert ours
        assert not gets(path, 64)
    timer.join()
