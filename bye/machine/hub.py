"""The hub of checkpoints: found out early whether a model can be had from there, and told in one sentence if not."""

import os

from bye.errors import ByeError

NATIVE = "code in a checkpoint is never run, so use one in the native format of transformers (such end in -hf)"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
OFFLINE = "HF_HUB_OFFLINE"
REASONS = {  # by the names of its library's errors, the more special ones first
    "GatedRepoError": "its licence must be accepted on its page first, and HF_TOKEN set",
    "RepositoryNotFoundError": "there is no such repository, or it is a private one",
    "RemoteEntryNotFoundError": "the repository has no such file",
    "LocalEntryNotFoundError": "the hub does not answer",
    "OfflineModeIsEnabled": "the hub's library is offline",
}


def find_file(what, name, file):
    """Return the path of one `file` of the hub repository `name`, from the hub or from the cache of its library.

    what: names the model in errors, for example "config key models.llava.path: owner/name". Raises ByeError.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # a line for each attempt
    try:
        return hf_hub_download(name, file)
    except (OSError, ValueError) as error:  # its library's own errors are of these kinds
        raise ByeError(describe(what, error)) from None


def describe(what, error):
    """Return the sentence for a model that the hub did not give (`error`: what its library raised), with ways out."""
    causes = [error, *filter(None, [error.__cause__, error.__context__])]
    names = [kind.__name__ for cause in causes for kind in type(cause).__mro__]
    reason = next((text for name, text in REASONS.items() if name in names), " ".join(str(error).split())[:200])
    if os.environ.get(OFFLINE, "0").lower() not in ("0", "", "no", "false"):
        reason = f"{OFFLINE} is set, and it is not in the cache"
    return (
        f"{what} cannot be had from the hub: {reason}; check the id and the network, or download it elsewhere and set "
        f"models.KEY.path to that folder (with {OFFLINE}=1 what is in the hub's cache is used)"
    )


def check_safetensors(what, name):
    """Raise ByeError unless the hub repository `name` has weights in safetensors, by its list of files or the cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        names = HfApi().list_repo_files(name)
    except (OSError, ValueError) as error:
        names = [file for file in WEIGHTS if isinstance(try_to_load_from_cache(name, file), str)]
        if not names:
            raise ByeError(describe(what, error)) from None
    if not any(file.endswith(".safetensors") or file in WEIGHTS for file in names):
        raise ByeError(f"{what} has no weights in safetensors; give one that has")
