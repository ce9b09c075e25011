"""A node that runs pods: its network as a control-plane node's."""

from underlay.operations import deploying

if deploying.runs_for("worker"):
    deploying.require_supported_system()
    deploying.packages("worker")
    deploying.planned_network()
    deploying.kubernetes_node()
    deploying.deploy_machine_access()
    deploying.keys_only()
    deploying.network_holds_at_boot()
