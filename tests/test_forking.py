"""Jobs as forks of a server: they are what a process of their own would have been, and end with who asked for them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_workflow import ROOT

from bye.machine import forking

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there are servers on Linux only")

SERVER = """
import sys
from bye.machine import forking
def load():
    import colorsys
def run(arguments):
    exec(arguments[-1], {})
forking.serve(int(sys.argv[1]), int(sys.argv[2]), load, run)
"""
ASKER = """
import sys
from bye.machine import forking
status = forking.ask(sys.argv[1:])
sys.exit("alone" if status is None else status)
"""
ONE_THREAD = dict.fromkeys(forking.THREADS, "1")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that runs the code that it is asked to run; its process."""
    (tmp_path / "tiny_server.py").write_text(SERVER)
    monkeypatch.delenv(forking.SERVER, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    process = forking.start("tiny_server", tmp_path)
    monkeypatch.setenv(forking.SERVER, os.environ[forking.SERVER])  # and is taken back after the test
    yield process
    process.kill()
    process.wait()


def ask(*arguments, **options):
    """An asker's process, begun."""
    environment = {**os.environ, **ONE_THREAD, **options.pop("environment", {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", ASKER, *arguments], **pipes, text=True, env=environment, cwd=options.get("cwd")
    )


def test_a_fork_is_in_its_askers_place(server, tmp_path):
    code = (
        "import os, sys, tempfile; print(sys.stdin.read(), os.getcwd(), os.environ['MINE'], tempfile.gettempdir(), "
        "oct(os.umask(0)), 'colorsys' in sys.modules); print('told', file=sys.stderr)"
    )
    (tmp_path / "place").mkdir()
    environment = {"MINE": "mine", "TMPDIR": str(tmp_path / "place")}
    process = ask(code, cwd=tmp_path / "place", environment=environment)
    mask = os.umask(0)
    os.umask(mask)
    assert process.communicate("said") == (f"said {tmp_path}/place mine {tmp_path}/place {oct(mask)} True\n", "told\n")
    assert process.returncode == 0


@pytest.mark.parametrize(
    "code, status, told",
    [
        ("import sys; sys.exit(2)", 2, ""),
        ("import sys; sys.exit('a sentence')", 1, ""),
        ("raise ValueError('why')", 1, "ValueError: why"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'at the end')", 0, ""),
    ],
)
def test_how_a_fork_ends_its_asker_ends(server, code, status, told):
    process = ask(code)
    out, error = process.communicate()
    assert process.returncode == status
    assert told in error
    assert out == ("at the end\n" if status == 0 else "")


SLEEPS = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


def is_there(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
        return False


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_fork_ends_with_its_asker(server, number):
    process = ask(SLEEPS)
    fork = int(process.stdout.readline())
    assert fork != process.pid and is_there(fork)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (1 if number == signal.SIGINT else -number)  # KeyboardInterrupt is an error like any
    wait_for(lambda: not is_there(fork))


def test_several_forks_at_once(server):
    askers = [ask(f"import time; time.sleep({1 - 0.3 * number}); print({number})") for number in range(3)]
    assert [asker.communicate()[0] for asker in askers] == ["0\n", "1\n", "2\n"]


def test_without_its_server_an_asker_is_told_so(server):
    process = ask(SLEEPS)
    fork = int(process.stdout.readline())
    server.kill()
    os.kill(fork, signal.SIGKILL)
    assert "the server of jobs has ended" in process.communicate()[1]
    assert process.returncode == 1
    later = ask(SLEEPS)
    assert later.communicate()[1] == "alone\n"


@pytest.mark.parametrize(
    "arguments, environment",
    [
        ([], {"OMP_NUM_THREADS": "2"}),
        (["--gpus", "1"], {}),
        ([], {forking.SERVER: ""}),
        ([], {forking.SERVER: "nobody"}),
    ],
)
def test_what_no_fork_can_do_is_left_to_the_asker(server, arguments, environment):
    process = ask(*arguments, "print('a fork')", environment=environment)
    assert process.communicate() == ("", "alone\n")


def test_a_server_ends_with_who_started_it(tmp_path):
    (tmp_path / "tiny_server.py").write_text(SERVER)
    code = f"from bye.machine import forking; print(forking.start('tiny_server', {str(tmp_path)!r}).pid)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(forking.SERVER, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    wait_for(lambda: not is_there(int(done.stdout)))


def test_the_users_own_word_counts(tmp_path, monkeypatch):
    monkeypatch.setenv(forking.SERVER, "")
    assert forking.start("tiny_server", tmp_path) is None
