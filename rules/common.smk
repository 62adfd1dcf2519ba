import os
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser

from bye import config as settings
from bye.errors import ByeError
from bye.machine import devices, processes
from bye.plan.paths import *
from bye.workflow import Files, Options, JobResources, keys_pattern, record_name
from bye.workflow import local, watch


def told(action, *arguments, **options):
    """Call a function; end with the sentence of a ByeError in place of a traceback."""
    try:
        return action(*arguments, **options)
    except ByeError as error:
        sys.exit(f"bye: error: {error}")


# As a module of another workflow, this one has its own folder, configuration and rules (docs/module.md).
root = Path(workflow.current_basedir).parent
own_rules = workflow.modifier.rules
if workflow.modifier.path_modifier.replace_prefix("results/file") != "results/file":
    sys.exit("bye: error: a module of this workflow has no prefix, since its options name files too; leave it out")

told(settings.check, config, root)
plan = Files(config)
options = Options(plan)
needs = JobResources(plan, cores=workflow._cores)
PLAIN = CELL.replace("{defence}", plan.plain)
on_model = {"mem_mb": needs.mem_mb, "runtime": needs.runtime, "torch_threads": 1}  # of a job that runs a model

if workflow.is_main_process:
    processes.end_with_parent()
    if not workflow.dryrun:
        told(processes.release_stale_lock)
        watch.quieten()
processes.announce_parent()
shell.prefix(processes.job_prefix(root))


wildcard_constraints:
    model=plan.pattern("models"),
    dataset=plan.pattern("datasets"),
    attack=plan.pattern("attacks"),
    defence=plan.pattern("defences"),
    seed=r"\d+",


def name_records():
    """Fill in what is alike in all rules and has no place of its own: the directives log, benchmark and conda.

    An installed package's jobs run in the environment that it is in; a clone is found from any, by PYTHONPATH.
    """
    for each in own_rules:
        if each.norun or not each.output or each.log:
            continue
        place = record_name(each.name, each.output[0])
        each.log_modifier = each.benchmark_modifier = workflow.modifier.path_modifier
        each.set_log(f"{LOGS}/{place}.log")
        each.benchmark = f"{BENCHMARKS}/{place}.tsv"
        if (root / "envs").is_dir():
            each.conda_env = "../envs/bye.yaml"
