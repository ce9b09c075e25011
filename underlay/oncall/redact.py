"""Takes secrets out of text that leaves the site: what is looked for is named in `SECRETS`. Pure.

It is the second line of defence: what is known to hold secrets is not read in the first place.
"""

import base64
import binascii
import hashlib
import re

LEFT_OUT = "[left out]"
_NAMES = r"pass(?:word|wd|phrase)|secret|token|psk|community|(?:api|private|preshared|fastopen)[_-]?key"
SECRETS = (
    # A private key; without its end too, where a text was cut. In a diff each line has a sign, in JSON it is one line.
    re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # The end of one, where the text was cut before it.
    re.compile(r"\A.*?-----END [A-Z0-9 ]*PRIVATE KEY-----", re.DOTALL),
    # A password's hash, as in /etc/shadow and htpasswd.
    re.compile(r"\$(?:[0-9a-z-]{1,12})\$[./A-Za-z0-9$=,+-]{8,}"),
)
_AUTHORIZATION = re.compile(
    r"(?i)(\bauthorization\b[\"']?\s*[:=]?\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?)[^\s\"';]+"
)
_VALUE = re.compile(rf"(?i)([\w.-]*(?:{_NAMES})[\w.-]*[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;}}]+)")
_IN_URL = re.compile(r"(://)[^\s/@]+(@)")
_PUBLIC_KEY = re.compile(r"\b((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+) (AAAA[A-Za-z0-9+/]+=*)")


def redact(text: str) -> str:
    """The text without secrets; public keys as their fingerprints."""
    for pattern in SECRETS:
        text = pattern.sub(LEFT_OUT, text)
    text = _AUTHORIZATION.sub(rf"\1{LEFT_OUT}", text)
    text = _VALUE.sub(rf"\1{LEFT_OUT}", text)
    text = _IN_URL.sub(rf"\1{LEFT_OUT}\2", text)
    return _PUBLIC_KEY.sub(lambda match: f"{match[1]} {fingerprint(match[2])}", text)


def fingerprint(key: str) -> str:
    """Of a public key in base64, as ssh-keygen -l shows it: `SHA256:…`."""
    try:
        digest = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    except binascii.Error:
        return LEFT_OUT
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
