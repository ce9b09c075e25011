"""The people on call: who has an account on the jump host, with which keys.

Whoever is removed here is removed there by the next deploy; the home folder stays. An account comes with sudo, because
the jump host is also the machine from which the site is deployed.

    people_on_call = {
        "ada": ["ssh-ed25519 AAAA… ada@laptop"],
    }
"""

people_on_call = {}
