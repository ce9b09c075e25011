"""pyinfra's configuration: it runs this file, from the folder that it is started in, before anything else."""

from pyinfra import config

config.CONNECT_TIMEOUT = 5
