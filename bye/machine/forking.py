"""Jobs that start at once: a server that has imported what they need, and forks for each.

A stage imports for longer than many a one works. `start` begins a process that listens first and imports then; `ask`
has it do a job: its fork gets the asker's folder, environment, files and umask, and ends when the asker ends, however
that ends. Where there is no server, or a job is not for it, `ask` says so, and the asker does the work itself.

Both sides belong to the same user, which the kernel tells of each connection. Linux only: elsewhere nothing is started.
With SERVER in the environment, empty or not, none is started either.
"""

import atexit
import contextlib
import gc
import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from bye.machine.processes import search_path

SERVER = "BYE_SERVER"  # the server's address, to the jobs
THREADS = (  # that libraries read as they are loaded, and Snakemake sets: a job with other numbers cannot be a fork
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that an asker hands on to its fork
NUMBER = struct.Struct("<i")
PEER = struct.Struct("3i")  # process, user and group of a connection


def start(module, root):
    """Start `python -m module FD PARENT`, which is to `serve`, with imports from `root`; let jobs know by SERVER.

    Returns its process, or None where there can be none. It ends when this process ends.
    """
    if SERVER in os.environ or not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        return None
    address = f"bye-{os.getpid()}-{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"\0{address}")  # in no folder, so that nothing is left behind
        listener.listen(128)
    except OSError:
        listener.close()
        return None
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(listener.fileno()), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": search_path(root)},
        pass_fds=[listener.fileno()],
        start_new_session=True,  # a Ctrl-C is for the askers, who hand it on
    )
    listener.close()
    os.environ[SERVER] = address
    return process


def serve(descriptor, parent, load, run):
    """Do what is asked for at the listening socket `descriptor`, each in a fork of this process, until `parent` ends.

    load: called first, what it imports is there for all; run: a function of the asker's arguments.
    """
    listener = socket.socket(fileno=descriptor)
    lifeline = os.pidfd_open(parent)
    load()
    gc.collect()
    gc.freeze()  # the garbage collector of a fork leaves these objects alone, and their memory is shared
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    asked = {}  # fork -> the connection to its asker
    while True:
        ready = select.select([listener, lifeline, wake], [], [])[0]
        if lifeline in ready:
            return
        if wake in ready:
            os.read(wake, 4096)
            for process, status in _ended(asked):
                with asked.pop(process) as connection:
                    _tell(connection, status)
        if listener in ready:
            connection, _ = listener.accept()
            if not _is_ours(connection):
                connection.close()
                continue
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listener, *asked.values()):
                    each.close()
                for each in (lifeline, wake, woken):
                    os.close(each)
                _work(connection, run)
            _tell(connection, process)
            asked[process] = connection


def ask(arguments):
    """Have the server do the job of these arguments, where there is one and it can; return the job's exit status.

    None where this process is to do it: nothing has been done then. Ends this process by a signal that ended the job.
    """
    address = os.environ.get(SERVER)
    if not address or any(os.environ.get(name) != "1" for name in THREADS) or _takes_gpus(arguments):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(f"\0{address}")
            if not _is_ours(connection):
                return None
            mask = os.umask(0o077)
            os.umask(mask)
            asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "umask": mask}
            text = json.dumps(asked).encode()
            socket.send_fds(connection, [NUMBER.pack(len(text))], [0, 1, 2])
            connection.sendall(text)
            process = _number(connection)
        except OSError:
            return None
        if process is None:
            return None
        for each in SIGNALS:
            signal.signal(each, lambda number, _: os.kill(process, number))
        status = _number(connection)
    if status is None:
        print("bye: the server of jobs has ended, and this job with it", file=sys.stderr)
        return 1
    if status < 0:
        with contextlib.suppress(OSError):  # what cannot be caught has no other way
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _takes_gpus(arguments):
    """Whether a job takes GPUs, which are for a process of its own: its start is short beside its work."""
    return "--gpus" in arguments and arguments[arguments.index("--gpus") + 1 :][:1] != ["0"]


def _work(connection, run):
    """Be the job that is asked for at a connection: take its asker's place, run, and end this process."""
    status = 1
    try:
        head, files, _, _ = socket.recv_fds(connection, NUMBER.size, 3)
        text = b""
        while len(text) < NUMBER.unpack(head)[0]:
            part = connection.recv(1 << 16)
            if not part:
                os._exit(status)  # the asker is gone
            text += part
        asked = json.loads(text)
        for place, descriptor in enumerate(files):
            os.dup2(descriptor, place)
            os.close(descriptor)
        os.chdir(asked["folder"])
        os.umask(asked["umask"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        tempfile.tempdir = None  # what it is, the environment says
        sys.stdout.reconfigure(line_buffering=True)
        threading.Thread(target=_end_with, args=[connection], daemon=True).start()
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        run(asked["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _end_with(connection):
    """End this process when the other side of a connection is gone."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _ended(asked):
    """Yield (process, status) of the forks that have ended; a signal's number is negative."""
    for process in list(asked):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            yield process, os.waitstatus_to_exitcode(status)


def _tell(connection, number):
    with contextlib.suppress(OSError):  # the asker is gone
        connection.sendall(NUMBER.pack(number))


def _number(connection):
    """The next number of a connection, or None where it has ended."""
    data = b""
    while len(data) < NUMBER.size:
        part = connection.recv(NUMBER.size - len(data))
        if not part:
            return None
        data += part
    return NUMBER.unpack(data)[0]


def _is_ours(connection):
    """Whether the process at the other side belongs to this user."""
    return PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))[1] == os.getuid()
