"""A control-plane node: a NIC in every network, answers from the address that was asked."""

from underlay.operations import deploying

if deploying.runs_for("master"):
    deploying.require_supported_system()
    deploying.packages("master")
    deploying.planned_network()
    deploying.kubernetes_node()
    deploying.deploy_machine_access()
    deploying.keys_only()
    deploying.network_holds_at_boot()
