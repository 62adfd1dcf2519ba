onstart:
    told(check_jobs)
    if workflow.local_exec:
        local.begin(workflow, root)
    local.show(workflow)


def check_jobs():
    """Stop before the first job where some would fail hours later: no GPU, no such model, a dataset folder half there.

    Only what the jobs of this run need is looked at. Where jobs run on this machine, they take its GPUs in turn.
    """
    present, limit = 0, workflow.global_resources.get("gpu")
    if workflow.local_exec:
        present, limit = len(devices.announce()), getattr(limit, "value", limit)
    own_jobs = [job for job in workflow.dag.needrun_jobs() if job.rule in own_rules]
    prepare = rules.prepare.rule.name  # which a module may have changed
    looked_at = set()
    for job in own_jobs:
        names = dict(job.wildcards.items())
        if job.rule.name == prepare:
            settings.check_root(names["dataset"], config["datasets"][names["dataset"]])
        if not local.needs_model(job) or (what := (names.get("model"), names.get("defence"))) in looked_at:
            continue
        looked_at.add(what)
        if "model" in names:
            settings.check_model(names["model"], config, present if workflow.local_exec else None, limit)
        else:
            settings.check_folders(names["defence"], config)


def check_request():
    """Stop with one sentence at a requested file under results/ that cannot be made; let a dry run tell what is missing.

    In a module only the latter: the project around it has targets of its own.
    """
    arguments = get_argument_parser().parse_known_args(sys.argv[1:])[0]
    if arguments.dryrun and workflow.is_main_process:
        for warning in settings.missing_roots(config):
            print(f"bye: warning: {warning}", file=sys.stderr)
    if not workflow.modifier.is_main_snakefile():
        return
    for target in map(os.path.normpath, arguments.targets):
        if target.startswith("results/") and not os.path.exists(target):
            told(
                settings.check_target, target, config, lambda: any(rule.is_producer(target) for rule in workflow.rules)
            )
