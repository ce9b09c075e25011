"""Takes secrets out of text that leaves the site: what is looked for is named in `SECRETS` and below. Pure.

It is the second line of defence: what is known to hold secrets is not read in the first place. It takes time in
proportion to the text, whatever is in it: every pattern has a bound, or what it runs over is run over once.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

LEFT_OUT = "[left out]"
_PEM = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
SECRETS = (
    # A private key; without its end too, where a text was cut. In a diff each line has a sign, in JSON it is one line.
    re.compile(rf"-----BEGIN {_PEM}.*?(?:-----END {_PEM}|\Z)", re.DOTALL),
    # The end of one, where the text was cut before it.
    re.compile(rf"\A.*?-----END {_PEM}", re.DOTALL),
    # PuTTY's.
    re.compile(r"Private-Lines: .*?(?:Private-MAC: \S{1,200}|\Z)", re.DOTALL),
    # A password's hash, as in /etc/shadow and htpasswd, and as LDAP and web frameworks keep it.
    re.compile(r"\$(?:[0-9a-z-]{1,12})\$[./A-Za-z0-9$=,+-]{8,}"),
    re.compile(r"\{(?:SSHA|SHA|SMD5|MD5|CRYPT)[0-9]{0,3}\}[A-Za-z0-9+/=.$]{8,}", re.IGNORECASE),
    re.compile(r"pbkdf2[_a-z0-9-]{0,20}[$:][A-Za-z0-9$:./+=]{8,}"),
)
_SHADOW = re.compile(r"^([+-]?[a-z_][\w.-]{0,60}:)(?![!*x]?:)([^:\s]{2,300})(?=:\d*:\d*:\d*:\d*:\d*:\d*:)")
_HTPASSWD = re.compile(r"^([+-]?\w[\w.@-]{0,60}:)[./A-Za-z0-9]{13}$")
"""The oldest hash, of crypt(3), has no mark."""
_BEARER = re.compile(r"(?i)\b((?:bearer|token|digest) +)(?=[\w./+~=-]{0,60}[0-9])[\w./+~=-]{16,}")
_BASIC = re.compile(r"(?i)\b(basic +)([A-Za-z0-9+/]{6,400}={0,2})")
_IN_URL = re.compile(r"(://)[^\s/@?#\"']+(@)")
_PUBLIC_KEY = re.compile(r"\b((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]{1,60}) (AAAA[A-Za-z0-9+/]+=*)")
_KEY_IN_BASE64 = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/]+=*")
"""`-----BEGIN …` in base64, as kubeconfig has it."""

_NAME = re.compile(
    r"pass(?:word|wd|phrase|code)|secret|token|psk|community|credential|cookie|authorization|requirepass|auth_?pass"
    r"|(?:api|private|preshared|fastopen|access|account|encryption|signing|master|shared)[_-]?key(?!_?id)|key[_-]data"
    r"|connection[_-]?string|[_.-]pwd$|(?:^|[_.-])pass$|masterauth"
)
"""What the name of a secret has in it, in lower case."""
_PLACE = re.compile(r"(?:file|path|dir|name|url|id|type|lifetime|ttl|length|count|policy|authentication)s?$")
"""How a name ends whose value only tells where the secret is, or something about it."""
_HEADER = re.compile(r"(?:proxy-)?authorization|(?:set-)?cookie")
_INNOCENT = re.compile(
    r"(?i)(?:yes|no|on|off|true|false|none|null|nil|never|always|required|enabled|disabled|files|x|\*|)$"
)
_WORD = re.compile(r"[A-Za-z0-9_.$-]+")
_SEPARATOR = re.compile(r"\\{0,4}[\"']?[ \t]{0,40}(?:=>|:=|==|[=:>])[ \t]{0,40}")
_SCHEME = re.compile(r"(?i)(?:basic|bearer|digest|token|negotiate)[ \t]{1,20}")
_SPACE = re.compile(r"[\"']?[ \t]{1,40}")
_EXPORT = "export "
_QUOTE = re.compile(r"\\{0,4}[\"']")
_DIRECTIVE = re.compile(
    r"(?:set[_-]header|add[_-]header|_param|requestheader|setenv|^[\s+-]*(?:set|machine|neighbor|user|userlist|stats|env)\b)"
)
"""Lines of configuration in which a value stands behind its name without a sign between."""
_ALONE = re.compile(
    r"^(?:(?:ro|rw)community6?|auth_?pass|(?:insecure-)?password|requirepass|masterauth|psk|secret|passphrase|auth-key)$"
)
"""Words of such lines, of snmpd, keepalived, haproxy, Redis, BGP and others."""
_TOKENS = re.compile(
    r"(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|sk_live_|rk_live_|hvs\.|hvb\.|npm_|dop_v1_|ya29\.|AIza|pypi-|SG\."
    r"|AGE-SECRET-KEY-|A[KS]IA(?=[A-Z0-9]{16}))"
)
"""How the tokens of some services begin."""
_BOOTSTRAP = re.compile(r"(?=[a-z0-9.]*\d)[a-z0-9]{6}\.[a-z0-9]{16}")
"""What a node joins a cluster of kubeadm with."""
_BLOCK = re.compile(r"[|>][+-]?\d?\s*$")
_NAMED = re.compile(r"\bname\"?\s{0,5}:\s{0,5}\"?$")
_VALUE_NEXT = re.compile(r"^[\s+-]*\"?value\"?\s{0,10}:\s{0,10}")
_ENDS = re.compile(r"(\n|\\n)")
"""The ends of lines, also those in a text that is a value of JSON."""


def redact(text: str) -> str:
    """The text without secrets; public keys as their fingerprints."""
    for pattern in SECRETS:
        text = pattern.sub(LEFT_OUT, text)
    text = _IN_URL.sub(rf"\1{LEFT_OUT}\2", text)
    text = _PUBLIC_KEY.sub(lambda match: f"{match[1]} {fingerprint(match[2])}", text)
    text = _KEY_IN_BASE64.sub(_unless_certificate, text)
    return "".join(_lines(_ENDS.split(text)))


def _lines(parts: list[str]) -> Iterator[str]:
    """Line by line, with the ends between them: a name may have its value in what follows."""
    block: int | None = None
    named = False
    for index, line in enumerate(parts):
        if index % 2 or not line:
            yield line
            continue
        indent = len(line) - len(line.lstrip(" \t+-"))
        if block is not None and line.strip():
            if indent > block:
                yield line[:indent] + LEFT_OUT
                continue
            block = None
        if named and (match := _VALUE_NEXT.match(line)):
            yield match[0] + LEFT_OUT
            named = False
            continue
        done, opens, named = _line(line)
        block = indent if opens else block
        yield done


def _line(line: str) -> tuple[str, bool, bool]:
    """The line without secrets; whether the lines below it are the value, and whether it only has a secret's name."""
    line = _SHADOW.sub(rf"\1{LEFT_OUT}", line)
    line = _HTPASSWD.sub(rf"\1{LEFT_OUT}", line)
    line = _BASIC.sub(lambda match: match[1] + (LEFT_OUT if _is_basic(match[2]) else match[2]), line)
    line = _BEARER.sub(rf"\1{LEFT_OUT}", line)
    config = bool(_DIRECTIVE.search(line[:200].lower()))
    found: list[str] = []
    at = last = 0
    lead = len(line) - len(line.lstrip(" \t+-\"'"))
    opens = named = False
    for word in _WORD.finditer(line):
        if word.start() < at:
            continue
        begin = end = 0
        name = word[0].lower()
        if _NAME.search(name) and not _PLACE.search(name):
            begin, end, opens = _value(line, word, lead, config)
            named = named or (not end and bool(_NAMED.search(line[max(0, word.start() - 30) : word.start()])))
        if not end and _is_token(word[0]):
            begin, end = word.span()
        if end:
            found += [line[last:begin], LEFT_OUT]
            at = last = end
        if opens:
            break
    return "".join([*found, line[last:]]), opens, named


def _value(line: str, word: re.Match[str], lead: int, config: bool) -> tuple[int, int, bool]:
    """Where the value of a name begins and ends (0: there is none), and whether it stands in the lines below.

    lead: how many characters the line has before anything that says something
    """
    name, option = word[0].lower(), line.startswith("--", word.start())
    separator = _SEPARATOR.match(line, word.end())
    if separator is None:
        space = _SPACE.match(line, word.end())
        bare = config or option or (_ALONE.match(name) and word.start() <= lead)
        if not space or not (bare or (_HEADER.search(name) and _QUOTE.match(line, space.end()))):
            return 0, 0, False
        begin, end = _span(line, space.end(), word, whole=False)
        # One word of prose says nothing: a secret has more than letters.
        prose = not (config or option) and line[begin:end].strip(";").isalpha()
        return (0, 0, False) if prose else (begin, end, False)
    if _BLOCK.match(line, separator.end()):
        return 0, 0, True
    first = word.start() <= lead or (word.start() <= lead + len(_EXPORT) and line.startswith(_EXPORT, lead))
    begin, end = _span(line, separator.end(), word, whole=first and "=" in separator[0])
    if end <= begin or line[begin] in "{[" or _INNOCENT.match(line[begin:end].strip("\"' ;,")):
        return 0, 0, False
    return begin, end, False


def _span(line: str, begin: int, word: re.Match[str], *, whole: bool) -> tuple[int, int]:
    """The value that begins there: in quotes, or to the end of the line, of a URL's part, an element or the word."""
    header = _HEADER.search(word[0].lower()) is not None
    if quote := _QUOTE.match(line, begin):
        close = line.find(quote[0], quote.end())
        while close > 0 and line[close - 1] == "\\" and not quote[0].startswith("\\"):
            close = line.find(quote[0], close + 1)
        if header and (scheme := _SCHEME.match(line, quote.end())):
            return scheme.end(), close if close >= 0 else len(line)
        return begin, close + len(quote[0]) if close >= 0 else len(line)
    if header:
        scheme = _SCHEME.match(line, begin)
        begin, whole = scheme.end() if scheme else begin, True
    stop = r"[&\s\"'#]" if line[word.start() - 1 : word.start()] in ("?", "&") else r"\Z" if whole else r"[\s\"'<]"
    match = re.compile(stop).search(line, begin)
    end = match.start() if match else len(line)
    return begin, begin + len(line[begin:end].rstrip(" \t\r,;)}]"))


def _is_token(word: str) -> bool:
    if len(word) < 16:
        return False
    if _TOKENS.match(word) or _BOOTSTRAP.fullmatch(word):
        return True
    parts = word.split(".")
    return len(parts) > 1 and any(each.startswith("eyJ") and len(each) > 8 for each in parts)


def _is_basic(text: str) -> bool:
    """Whether it is a user and a password, and not a word."""
    try:
        return b":" in base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return False


def _unless_certificate(match: re.Match[str]) -> str:
    try:
        public = b"BEGIN CERTIFICATE" in base64.b64decode(match[0][:64])
    except binascii.Error:
        public = False
    return match[0] if public else LEFT_OUT


def fingerprint(key: str) -> str:
    """Of a public key in base64, as ssh-keygen -l shows it: `SHA256:…`."""
    try:
        digest = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    except binascii.Error:
        return LEFT_OUT
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
