"""What a job asks of the machine: functions of configuration and wildcards."""

import math
import os

DETECTOR_MEM_MB = 1000  # of a detector that runs no model
DETECTOR_MINUTES = 10


class JobResources:
    """The resources of jobs.

    files: the Files of a configuration; cores: of Snakemake's --cores; machine_cores: of this machine, or None.
    """

    def __init__(self, files, cores=1, machine_cores=None):
        self.files, self.config, self.cores = files, files.config, cores or 1
        self.machine_cores = machine_cores or _machine_cores()

    def torch_threads(self, wildcards):
        """Return how many of --cores a job that computes with torch counts as: one core of the machine.

        One such job a core, with one thread each, is the fastest way through many small trainings. `--cores 4` on a
        machine with two cores therefore runs two of them, and `--cores 16` on one with sixteen runs sixteen.
        """
        return max(1, math.ceil(self.cores / self.machine_cores))

    def process_threads(self, wildcards):
        """Return the same for a job that divides its work among processes."""
        return self.torch_threads(wildcards) * self.processes(wildcards)

    def mem_mb(self, wildcards, attempt):
        """Return the memory that a job with a model asks for, more at each attempt."""
        return self._resources(wildcards)["mem_mb"] * attempt

    def runtime(self, wildcards):
        """Return the minutes that a job with a model asks for."""
        return self._resources(wildcards)["runtime"]

    def gpu(self, wildcards):
        """Return the GPUs of a job that divides its work."""
        return self._resources(wildcards)["gpu"]

    def one_gpu(self, wildcards):
        """Return what a job that runs in one process asks for, however many GPUs a fine-tune may have."""
        return min(1, self.gpu(wildcards))

    def processes(self, wildcards):
        """Return in how many processes a job divides its work: one a GPU."""
        return max(1, self.gpu(wildcards))

    def purifier_gpu(self, wildcards):
        """Return 1 where any model of the configuration runs on a GPU, else 0."""
        return min(1, max(model["resources"]["gpu"] for model in self.config["models"].values()))

    def detector_threads(self, wildcards):
        """Return the threads of a detector, which may run the model."""
        return self.torch_threads(wildcards) if self.files.runs_model(wildcards) else 1

    def detector_mem_mb(self, wildcards, attempt):
        """Return the memory of a detector."""
        return self.mem_mb(wildcards, attempt) if self.files.runs_model(wildcards) else DETECTOR_MEM_MB

    def detector_runtime(self, wildcards):
        """Return the minutes of a detector."""
        return self.runtime(wildcards) if self.files.runs_model(wildcards) else DETECTOR_MINUTES

    def detector_gpu(self, wildcards):
        """Return the GPUs of a detector."""
        return self.one_gpu(wildcards) if self.files.runs_model(wildcards) else 0

    def _resources(self, wildcards):
        return self.config["models"][wildcards.model]["resources"]


def _machine_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
