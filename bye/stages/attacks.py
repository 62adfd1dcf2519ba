"""Stages that put an attack into a dataset."""

from bye.stages.options import IMAGES, SAMPLES, SEED, TARGET, may, need, stage, target_of


@stage(
    "poison",
    SAMPLES,
    IMAGES,
    may("--trigger", "badnet", "kind of trigger, or the path of a .py file"),
    may("--rate", 0.10, "share of the samples to poison"),
    may("--target", "Backdoor Attack!", TARGET, type=target_of),
    SEED,
    need("--out", "folder for train.json and images/"),
    need("--labels", "Parquet file for the ground truth, outside --out"),
    methods=(("trigger", "trigger"),),
)
def poison(samples, images, trigger, rate, target, seed, out, labels, **settings):
    """Poison a training set."""
    from bye.attacks.poison import poison_training_set

    count = poison_training_set(samples, images, trigger, rate, target, seed, out, labels, **settings)
    print(f"poison: {count} samples of {samples} poisoned")


@stage(
    "trigger-test",
    SAMPLES,
    IMAGES,
    may("--trigger", "badnet", "kind of trigger, or the path of a .py file"),
    may("--target", "Backdoor Attack!", TARGET, type=target_of),
    SEED,
    need("--out", "folder for triggered.json and triggered/"),
    methods=(("trigger", "trigger"),),
)
def trigger_test(samples, images, trigger, target, seed, out, **settings):
    """Put the trigger on every sample of a test set."""
    from bye.attacks.poison import trigger_test_set

    count = trigger_test_set(samples, images, trigger, target, seed, out, **settings)
    print(f"trigger-test: {count} samples of {samples} triggered")
