"""`python -m bye STAGE`: the command line without an installed script; as a job, at once where a server is there."""

import sys

from bye.machine import forking

status = forking.ask(sys.argv[1:])
if status is None:
    from bye.cli import main

    main()
else:
    sys.exit(status)
