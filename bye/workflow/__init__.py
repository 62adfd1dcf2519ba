"""What the rules ask of a configuration: pure functions of it and of a job's wildcards."""

from bye.workflow.files import Files
from bye.workflow.options import Options
from bye.workflow.resources import JobResources
from bye.workflow.texts import keys_pattern, record_name

__all__ = ["Files", "Options", "JobResources", "keys_pattern", "record_name"]
