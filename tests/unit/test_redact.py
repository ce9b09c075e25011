"""What leaves the site has no secrets, in whatever notation, and everything else."""

import base64
import json
from time import process_time

import pytest

from underlay.oncall.redact import redact

SECRET = "hunter2-Zq9/x+3"
BASIC = base64.b64encode(b"ada:hunter2-Zq9").decode()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLWh1bnRlcjI"
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7hunter2"
PEM = f"-----BEGIN %sPRIVATE KEY%s-----\n{BODY}\n-----END %sPRIVATE KEY%s-----\n"
KEY_DATA = base64.b64encode((PEM % ("RSA ", "", "RSA ", "")).encode()).decode()

SECRETS = {
    "nginx header": (f'proxy_set_header Authorization "Basic {BASIC}";', BASIC),
    "nginx header, bare": (f"proxy_set_header X-Api-Key {SECRET};", SECRET),
    "nginx header, cookie": (f'  proxy_set_header Cookie "session={SECRET}; a=b";', SECRET),
    "nginx variable": (f'set $api_token "{SECRET}";', SECRET),
    "nginx fastcgi": (f"fastcgi_param DB_PASSWORD {SECRET};", SECRET),
    "in a diff": (f"+    proxy_set_header Authorization 'Bearer {SECRET}';", SECRET),
    "haproxy": (f"http-request set-header Authorization {SECRET}", SECRET),
    "haproxy user": (f"  user ada insecure-password {SECRET}", SECRET),
    "apache": (f'RequestHeader set Authorization "Basic {BASIC}"', BASIC),
    "htpasswd, apr1": ("ada:$apr1$Xo9wzb1v$Ml2uM5yYQy9XkDcD0hunt1", "Ml2uM5yYQy9XkDcD0hunt1"),
    "htpasswd, bcrypt": ("ada:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", "c4WoMPo3"),
    "htpasswd, sha": ("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "W6ph5Mm5"),
    "htpasswd, ssha": ("ada:{SSHA512}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "W6ph5Mm5"),
    "htpasswd, crypt": ("ada:rl.3Hunter2.M", "rl.3Hunter2.M"),
    "shadow": ("root:$6$rounds=5000$saltsalt$hunter2hunter2:19000:0:99999:7:::", "hunter2hunter2"),
    "shadow, yescrypt": ("ops:$y$j9T$abcdefgh$ijklmnop:19000:0:99999:7:::", "ijklmnop"),
    "shadow, crypt": ("+ops:rl.3Hunter2.M:19000:0:99999:7:::", "rl.3Hunter2.M"),
    "argon2": ("x=$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aHVudGVyMg", "aHVudGVyMg"),
    "django": ("pbkdf2_sha256$260000$salt$hunter2hunter2=", "hunter2hunter2"),
    "JWT in a log": (f"level=info msg=login {JWT} ok", JWT.split(".")[1]),
    "JWT in a URL": (f"GET /?jwt={JWT}&a=b", JWT.split(".")[2]),
    "bearer in a log": ('curl -H "Authorization: Bearer abcdef0123456789abcdef"', "abcdef0123456789"),
    "bearer alone": ("sent bearer abcdef0123456789abcdef to it", "abcdef0123456789"),
    "basic alone": (f"sent Basic {BASIC}", BASIC),
    "header": (f"Authorization: {SECRET}", SECRET),
    "header, digest": (f'Authorization: Digest username="ada", response="{SECRET}"', SECRET),
    "proxy header": (f"Proxy-Authorization: Basic {BASIC}", BASIC),
    "cookie": (f"Cookie: a=b; session={SECRET}", SECRET),
    "set-cookie": (f"< set-cookie: session={SECRET}; HttpOnly", SECRET),
    "other header": (f"X-Auth-Token: {SECRET}", SECRET),
    "URL": (f"deb https://ada:{SECRET.replace('/', '')}@deb.example/ ./", SECRET.replace("/", "")),
    "URL, token": ("git clone https://ghp0123456789@git.example/x", "ghp0123456789"),
    "URL, query": (f"GET https://a.example/?password={SECRET}&user=ada HTTP/1.1", SECRET),
    "URL, later": (f"GET /x?user=ada&access_token={SECRET}", SECRET),
    "ini": (f"password={SECRET}", SECRET),
    "ini, with blanks": (f"  db_password = {SECRET} and more, of it", "and more, of it"),
    "ini, quoted": (f'secret_key = "{SECRET}"', SECRET),
    "environment": (f"export MYSQL_PWD={SECRET}", SECRET),
    "environment of a unit": (f'Environment="API_KEY={SECRET}" "A=b"', SECRET),
    "YAML": (f"    password: {SECRET}", SECRET),
    "YAML, quoted": (f"- client_secret: '{SECRET}'", SECRET),
    "YAML, flow": (f"{{user: ada, password: {SECRET}}}", SECRET),
    "YAML, block": (f"a:\n  password: |\n    {SECRET}\n    more\n  b: c", SECRET),
    "YAML, block, more": (f"a:\n  password: >-\n    x\n    {SECRET}", SECRET),
    "YAML, name and value": (f"- name: DB_PASSWORD\n  value: {SECRET}", SECRET),
    "JSON": (json.dumps({"user": "ada", "password": SECRET}), SECRET),
    "JSON, with a quote": (json.dumps({"password": f'a"{SECRET}'}), SECRET),
    "JSON in JSON": (json.dumps(json.dumps({"password": SECRET, "a": 1})), SECRET),
    "a file in JSON": (json.dumps({"diff": f"+++ b\n+password = {SECRET}\n+a = b"}), SECRET),
    "XML": (f"<password>{SECRET}</password>", SECRET),
    "Ruby": (f":password => '{SECRET}'", SECRET),
    "option": (f"ExecStart=/usr/bin/x --password {SECRET} --user ada", SECRET),
    "option, joined": (f"x --auth-token={SECRET} run", SECRET),
    "netrc": (f"machine a.example login ada password {SECRET}", SECRET),
    "BGP": (f"neighbor 192.0.2.1 password {SECRET}", SECRET),
    "keepalived": (f"        auth_pass {SECRET}", SECRET),
    "snmp": (f"rocommunity {SECRET} 100.64.0.0/21", SECRET),
    "redis": (f"requirepass {SECRET}", SECRET),
    "WireGuard": (f"PrivateKey = {BODY[:43]}=", BODY[:43]),
    "wifi": (f'psk="{SECRET}"', SECRET),
    "PEM": (PEM % ("", "", "", ""), BODY),
    "PEM, RSA": (PEM % ("RSA ", "", "RSA ", ""), BODY),
    "PEM, encrypted": (PEM % ("ENCRYPTED ", "", "ENCRYPTED ", ""), BODY),
    "PGP": (PEM % ("PGP ", " BLOCK", "PGP ", " BLOCK"), BODY),
    "PEM, indented": ((PEM % ("EC ", "", "EC ", "")).replace("\n", "\n      "), BODY),
    "PEM, in JSON": (json.dumps({"key": PEM % ("", "", "", "")}), BODY),
    "PEM, cut": ((PEM % ("", "", "", ""))[:80], BODY[:20]),
    "PEM, its end": ((PEM % ("", "", "", ""))[40:], BODY[20:]),
    "PuTTY": (f"Private-Lines: 1\n{BODY}\nPrivate-MAC: abc", BODY),
    "kubeconfig, key": (f"    client-key-data: {KEY_DATA}", KEY_DATA),
    "kubeconfig, elsewhere": (f"x {KEY_DATA} y", KEY_DATA),
    "kubeconfig, token": (f"    token: {JWT}", JWT),
    "kubeadm": ("kubeadm join 100.64.0.2:6443 --token abcdef.0123456789abcdef", "0123456789abcdef"),
    "AWS": (f"aws_secret_access_key = {SECRET}", SECRET),
    "AWS, id": ("aws_access_key_id = AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "Azure": (f"DefaultEndpointsProtocol=https;AccountKey={SECRET}==;EndpointSuffix=x", SECRET),
    "GitHub": ("remote: ghp_0123456789abcdefghij0123456789abcdef", "ghp_0123456789"),
    "GitLab": ("glpat-0123456789abcdefghij", "0123456789abc"),
    "Google": ("key=AIzaSyA0123456789abcdefghijklmnopqrstuv", "SyA0123456789"),
    "Slack": ("xoxb-0123456789-abcdefghij", "0123456789-abc"),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
def test_secrets(text: str, secret: str) -> None:
    """None of it is left, whatever is around it."""
    # Without its begin it is known by being the first.
    twice = [] if text.startswith(BODY[12:]) else ["{}\n{}"]
    for around in ("{}", "one\n{}\ntwo", *twice):
        left = redact(around.replace("{}", text))
        assert secret not in left
        assert "hunter2" not in left.lower()
        assert "[left out]" in left


@pytest.mark.parametrize(
    "text",
    [
        "sshd[1]: Failed password for invalid user admin from 192.0.2.1 port 40000 ssh2",
        "sshd[1]: Accepted publickey for ops from 100.64.0.52 port 22 ssh2: ED25519 SHA256:abcdefghijklmnop0123456789",
        "sshd: password authentication is off; Basic authentication, too",
        "sshd[7]: error: maximum authentication attempts exceeded for root from 192.0.2.1 port 22 ssh2 [preauth]",
        "PasswordAuthentication no\nPermitEmptyPasswords no\nKbdInteractiveAuthentication no",
        "passwordauthentication no\npermitrootlogin without-password",
        "password: no\nsecret: none",
        "ssl_certificate /etc/nginx/tls.pem;\nssl_certificate_key /etc/nginx/tls.key;",
        "auth_basic_user_file /etc/nginx/htpasswd;",
        "password_file = /etc/x/password\ntoken_ttl: 3600",
        "root:x:0:0:root:/root:/bin/bash\nops:x:1000:1000::/home/ops:/bin/bash",
        "root:*:19000:0:99999:7:::\nops:!:19000:0:99999:7:::",
        "-A POSTROUTING -s 100.64.0.53/32 -m comment --comment web -j SNAT --to-source 192.168.0.53",
        "default via 192.168.0.1 dev eth0 proto static metric 100",
        "systemd-ask-password-console.path loaded active waiting Dispatch Password Requests to Console Directory Watch",
        "libpam-passwdqc\t2.0.3-1\npasswd\t1:4.13+dfsg1-1\nlibsecret-1-0\t0.20.5-3",
        "tcp ESTAB 0 0 100.64.0.53:6443 100.64.0.2:40000",
        "a token bucket, a secret life, the community of cookies",
        "kernel: eth0: renamed from veth0a1b2c3",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "certificate-authority-data: " + base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n").decode(),
        "http://packages.lab.example/debian trixie main",
        "# the password is in the safe; ask for a token at the desk",
        "SHA256:uNiVztksCsDhcc0u9e8BrZxq8hg root@lb (ED25519)",
        "user@1000.service loaded active running User Manager for UID 1000",
    ],
)
def test_all_else_stays(text: str) -> None:
    """A colleague needs it."""
    assert redact(text) == text


def test_what_is_around_a_secret_stays() -> None:
    assert redact(f"a = b\npassword: {SECRET}\nc = d") == "a = b\npassword: [left out]\nc = d"
    assert redact(f"GET /?token={SECRET}&user=ada 200") == "GET /?token=[left out]&user=ada 200"
    assert redact(f"{{user: ada, password: {SECRET}, a: b}}") == "{user: ada, password: [left out], a: b}"
    public = "AAAAC3NzaC1lZDI1NTE5AAAAIEyn7nLGCYUaJ3jNdPMY2aaDRuzHxBJMI2yeBiBvSQAx"
    assert redact(f'from="192.0.2.1" ssh-ed25519 {public} ada@desk').endswith(" ada@desk")


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "password", "x=", "://", "://a", "eyJ", "eyJ.", "$1$", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----"),
        *("ssh-", "LS0tLS1CRUdJTi", "basic ", "bearer a", "token ", '"', '\\"', "password='", "pbkdf2", "{SHA}"),
        *("name: password\n", "password: |\n", "\\n", "a:", "GET /?a=b&token=c ", "http://a/?password", "[", "-"),
        *("Private-Lines: ", "set password ", "--password ", "authorization ", 'authorization "', "=", " ", "\t"),
    ],
)
def test_its_time_is_that_of_the_length(piece: str) -> None:
    """A host of the LAN chooses what stands in the logs: eight times as much takes no sixty-four times as long."""

    def work(length: int) -> float:
        """Seconds of the processor, whatever else it does."""
        text = piece * (length // len(piece))
        began = process_time()
        redact(text)
        return process_time() - began

    assert work(160_000) < 24 * work(20_000) + 0.3
