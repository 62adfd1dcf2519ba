"""One stage in several processes, one a GPU: started as torchrun does it, dividing the samples and speaking as one.

Each process runs the whole stage; it takes its share of the work, and only the first one prints and writes. Whether a
process is one of several is in its environment (torchrun's variables), so torch is loaded only where they talk.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from bye.errors import ByeError
from bye.machine import processes

FOLDER = "BYE_SHARED_FOLDER"  # of the processes of one stage, for the time of the run
PATIENCE = timedelta(hours=2)  # for the slowest process; when one ends, the launcher ends the others at once
SECONDS_TO_BE_ENDED = 3


def size():
    """How many processes do this stage together."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank():
    """The number of this process among them, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def device():
    """The device of this process: its own GPU, where there are any, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    from accelerate.utils import check_cuda_p2p_ib_support

    if not check_cuda_p2p_ib_support():  # GeForce cards under old drivers; `accelerate launch` does the same
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    index = int(os.environ["LOCAL_RANK"]) if size() > 1 else 0
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def share(items):
    """This process's share of a sequence that all have: every size()-th item."""
    return items[rank() :: size()]


def gather(value):
    """The values of all processes as a list, in every process. Waits until each has given its own."""
    if size() == 1:
        return [value]
    import torch

    if not torch.distributed.is_initialized():  # gloo carries what is no tensor, NCCL the gradients
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    values = [None] * size()
    torch.distributed.all_gather_object(values, value)
    return values


def split_batch(batch_size, n_processes, micro_batch_size=None):
    """Divide a batch: (samples that a process holds at once, accumulation steps).

    batch_size: over all processes; micro_batch_size: the most that one holds at once, by default its whole share.
    Raises ByeError where they do not divide.
    """
    if batch_size % n_processes:
        raise ByeError(f"batch_size {batch_size} is not a multiple of the {n_processes} processes; choose one that is")
    micro = min(micro_batch_size or batch_size, batch_size // n_processes)
    if batch_size % (n_processes * micro):
        among = f" times {n_processes} processes" if n_processes > 1 else ""
        raise ByeError(
            f"batch_size {batch_size} is not a multiple of micro_batch_size {micro}{among}; choose a divisor"
        )
    return micro, batch_size // (n_processes * micro)


def launch(n_processes, arguments):
    """Run `bye ARGUMENTS` in several processes of this machine, as `torchrun --standalone` does: the exit status.

    The port where they meet is one that the system gives, so that jobs on one machine do not clash. When one process
    fails or is killed, the others are ended. Raises ByeError where there are GPUs, but fewer than processes.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < n_processes:
        raise ByeError(
            f"{n_processes} processes need a GPU each, and there are {torch.cuda.device_count()} here; lower "
            "resources.gpu of the model in the configuration (--processes)"
        )
    logging.disable()  # of the launcher: what went wrong is told by the process that it happened to
    processes.announce_parent()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=n_processes,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-u", "-m", "bye", *arguments)
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            if failure.exitcode < 0:
                raise ByeError(
                    f"process {number} of {n_processes} was ended by {signal.Signals(-failure.exitcode).name}; if it "
                    "was not you, the machine's memory may be used up: run fewer jobs at once or give this one more"
                ) from None
            return failure.exitcode
        except SignalException as error:
            return 128 + error.sigval
    return 0


@contextlib.contextmanager
def speaking_as_one():
    """Run the body in one of several processes so that only the first that fails goes on to say so.

    The others wait to be ended by the launcher. A failed connection is no cause but follows from another's end: what is
    no ByeError waits too, before it is taken for the first.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if size() > 1 and not _is_first_to_fail(error):
            time.sleep(SECONDS_TO_BE_ENDED)
            os._exit(1)
        raise
    if size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _is_first_to_fail(error):
    if not isinstance(error, ByeError | KeyboardInterrupt):
        time.sleep(SECONDS_TO_BE_ENDED)
    try:
        (Path(os.environ[FOLDER]) / "failed").touch(exist_ok=False)
    except KeyError:  # started by torchrun itself: each speaks for itself
        return True
    except OSError:  # another was first; or the launcher is gone, and the folder with it
        return False
    return True
