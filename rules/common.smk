import os
import sys

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


told(settings.check, config, workflow.basedir)
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
shell.prefix(processes.job_prefix(workflow.basedir))


onstart:
    told(check_jobs)
    if workflow.local_exec:
        local.begin(workflow)
    local.show(workflow)


wildcard_constraints:
    model=plan.pattern("models"),
    dataset=plan.pattern("datasets"),
    attack=plan.pattern("attacks"),
    defence=plan.pattern("defences"),
    seed=r"\d+",


def check_jobs():
    """Stop before the first job where some would fail hours later: no GPU, no such model, a dataset folder half there.

    Only what the jobs of this run need is looked at. Where jobs run on this machine, they take its GPUs in turn.
    """
    present, limit = 0, workflow.global_resources.get("gpu")
    if workflow.local_exec:
        present, limit = len(devices.announce()), getattr(limit, "value", limit)
    looked_at = set()
    for job in workflow.dag.needrun_jobs():
        names = dict(job.wildcards.items())
        if job.rule.name == "prepare":
            settings.check_root(names["dataset"], config["datasets"][names["dataset"]])
        if not local.needs_model(job) or (what := (names.get("model"), names.get("defence"))) in looked_at:
            continue
        looked_at.add(what)
        if "model" in names:
            settings.check_model(names["model"], config, present if workflow.local_exec else None, limit)
        else:
            settings.check_folders(names["defence"], config)


def name_records():
    """Fill in what is alike in all rules and has no place of its own: the directives log, benchmark and conda."""
    for each in workflow.rules:
        if each.norun or not each.output or each.log:
            continue
        place = record_name(each.name, each.output[0])
        each.log_modifier = each.benchmark_modifier = workflow.modifier.path_modifier
        each.set_log(f"{LOGS}/{place}.log")
        each.benchmark = f"{BENCHMARKS}/{place}.tsv"
        each.conda_env = "../envs/bye.yaml"


def check_request():
    """Stop with one sentence at a requested file under results/ that cannot be made; let a dry run tell what is missing."""
    arguments = get_argument_parser().parse_known_args(sys.argv[1:])[0]
    if arguments.dryrun and workflow.is_main_process:
        for warning in settings.missing_roots(config):
            print(f"bye: warning: {warning}", file=sys.stderr)
    for target in map(os.path.normpath, arguments.targets):
        if target.startswith("results/") and not os.path.exists(target):
            told(
                settings.check_target, target, config, lambda: any(rule.is_producer(target) for rule in workflow.rules)
            )
