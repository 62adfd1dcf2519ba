"""What makes a run quick where its jobs run on this machine, and shows it."""

import logging

from bye.machine import forking, processes
from bye.workflow import watch

FEW = 3  # jobs with a model that a server does not pay for: it imports as long as they do together on two cores


def begin(workflow, root):
    """Let jobs of a Snakemake workflow start without waiting, and at once, and do nothing twice.

    root: the folder that jobs find the package in, if it is not installed.
    """
    # Snakemake's limit of jobs a second protects a cluster's controller. While jobs wait, it also wakes the scheduler a
    # second after each job that ended, and again a second later: after a hundred jobs that is half a core's work.
    workflow.scheduler.job_rate_limiter = None
    processes.open_run_folder()
    if workflow.deployment_settings.deployment_method:
        return  # jobs run in environments of their own
    if sum(needs_model(job) for job in workflow.dag.needrun_jobs()) > FEW:
        forking.start("bye.server", root)


def show(workflow):
    """Show a line of what is done and left, where that is wanted."""
    if watch.is_wanted():
        jobs = {job.jobid: _about(job) for job in workflow.dag.needrun_jobs()}
        logging.getLogger("snakemake.logging").addHandler(watch.Watch(jobs, workflow.resource_settings.cores or 1))


def _about(job):
    """(name of the rule, what the job is about, its cell or None, path of its log or None)."""
    values = dict(job.wildcards.items())
    about = "/".join(values.values())
    return job.rule.name, about, about if "defence" in values else None, str(job.log[0]) if job.log else None


def needs_model(job):
    """Whether a Snakemake job runs a model: whatever does says how many GPUs it takes, if none."""
    return "gpu" in job.rule.resources
