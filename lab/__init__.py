"""The site on one machine: every host of the plan a real Debian, wired up in network namespaces of its own.

`lab.control` is what tasks and tests use; `lab.state` is what others may read of a lab that runs.
"""
