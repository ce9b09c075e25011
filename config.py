"""pyinfra's configuration: it runs this file, from the folder that it is started in, before anything else."""

from underlay.operations.inventory import run_no_data_files
from underlay.text import make_safe

# What hosts say, and what is found on them.
make_safe(colours=True)
run_no_data_files()
