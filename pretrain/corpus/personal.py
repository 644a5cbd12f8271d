"""Personal data in a text, and the sites that hold too much of it (paper 4.1: such sites were left out).

Counted are e-mail addresses, telephone numbers, IP addresses, payment card numbers (Luhn's check digit), and national
or bank numbers: those with a checksum only where it is right (IBAN, Spanish DNI and NIE, Brazilian CPF, French NIR, UK
NHS number: python-stdnum knows them), US social security and UK national insurance numbers, which have none, by their
rules. Telephone numbers go by their shape: of those without a country's code the phonenumbers library needs to be told
the country, and finds fewer (docs/corpus.md).

No text is dropped for what it holds itself, and none without a url: a site is dropped as a whole.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs

KINDS = ("emails", "phones", "ip_addresses", "cards", "national_numbers")


_EMAIL = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b", re.A)
_DIGIT = re.compile(r"\d", re.A)
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]\d|\d)", re.A)
_IPV6 = re.compile(
    r"(?<![:\w])[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){1,7}(?::\d{1,3}(?:\.\d{1,3}){3}|:[0-9a-f]{1,4}|::)(?!:?\w)", re.I | re.A
)
# Where addresses are given out: elsewhere `1::2` is a slice of an array and `a::b` a name in a program.
_NETWORKS = tuple(map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "fe80::/10")))
_CARD = re.compile(
    r"(?<![\d-])[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?!\d)|(?<!\d)3[47]\d{2}([ -]?)\d{6}\2\d{5}(?!\d)", re.A
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.A)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", re.A)
_NINO = re.compile(r"\b(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?(?:\d{2} ?){3}[A-D]\b", re.A)
_DNI = re.compile(r"\b([XYZ]?)(\d{7,8})-?([A-Z])\b", re.A)
_CPF = re.compile(r"(?<!\d)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)", re.A)
_NIR = re.compile(r"(?<!\d)[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\d)", re.A)
_NHS = re.compile(r"(?<![\d-])\d{3}([ -])\d{3}\1\d{4}(?![\d-])", re.A)
_PHONE = re.compile(
    r"""(?<![\w.+-])(?:
      \+[1-9]\d{0,2}[ .()-]{0,2}\d(?:[ .()/-]{0,2}\d){6,12}  # +49 30 1234567
    | \(\d{3}\)\ ?\d{3}[ .-]\d{4} | \d{3}([.-])\d{3}\1\d{4}  # (212) 555-0123, 212-555-0123
    | 0\d{1,4}[ /-]\d{2,4}(?:[ -]?\d{2,4}){1,3}           # 030 1234567, 01 23 45 67 89: nine digits or more
    )(?!\d|[.-]\d)""",
    re.X | re.A,
)
_DAY, _HOUR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:[01]\d|2[0-4])[0-5]\d"
# Dates and hours, which the shape of a telephone number would take in.
_TIME = re.compile(
    rf"""(?<![\d+.-])(?:
      {_DAY}[./-]{_DAY}[ ./-](?:19|20)\d\d                # 01-12-2023, 05/11 2023
    | (?<!\d[ ]){_DAY}[ ]{_DAY}[ ](?:19|20)\d\d          # 01 12 2023
    | {_DAY}([./-]){_DAY}\1\d\d                           # 01-12-23
    | (?:19|20)\d\d([./-]){_DAY}\2{_DAY}                  # 2023/12/01
    | \d{{1,2}}:\d\d(?::\d\d)?                            # 10:05
    )(?![./-]?\d)
    | (?<![\d+./-]){_HOUR}(?:(?:[ ]?[-–][ ]?|[ ]){_HOUR})+(?![ ]?[./-]?\d)  # 0800-1200""",
    re.X | re.A,
)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _ipv6(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return False
    return "::" not in match[0] or any(address in network for network in _NETWORKS)


def _phone(match: re.Match[str]) -> bool:
    return (9 if match[0].startswith("0") else 7) <= len(_digits(match[0])) <= 15


def _always(match: re.Match[str]) -> bool:
    return True


# In this order: what one rule has taken, the later ones do not see.
_RULES: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("national_numbers", _IBAN, lambda match: iban.is_valid(match[0])),
    ("cards", _CARD, lambda match: 13 <= len(_digits(match[0])) <= 19 and luhn.is_valid(_digits(match[0]))),
    ("national_numbers", _NIR, lambda match: nir.is_valid(match[0])),
    ("national_numbers", _CPF, lambda match: cpf.is_valid(match[0])),
    ("national_numbers", _DNI, lambda match: dni.is_valid(match[0]) or nie.is_valid(match[0])),
    ("national_numbers", _SSN, _always),
    ("national_numbers", _NINO, _always),
    ("national_numbers", _NHS, lambda match: nhs.is_valid(match[0])),
    ("ip_addresses", _IPV6, _ipv6),
    ("ip_addresses", _IPV4, lambda match: all(int(part) < 256 for part in match[0].split("."))),
)


def find(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the words of every piece of personal data in a text."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield "emails", match[0]
    if _DIGIT.search(text) is None:
        return
    for kind, pattern, holds in _RULES:
        taken = [match for match in pattern.finditer(text) if holds(match)]
        for match in reversed(taken):  # from the end, so that the places of the others stay as they are
            yield kind, match[0]
            text = f"{text[: match.start()]} # {text[match.end() :]}"
    if _PHONE.search(text):
        yield from (("phones", match[0]) for match in _PHONE.finditer(_TIME.sub(" # ", text)) if _phone(match))


def count(text: str) -> list[int]:
    """Return how many pieces of personal data of each of KINDS a text holds."""
    found = [0] * len(KINDS)
    for kind, _ in find(text):
        found[KINDS.index(kind)] += 1
    return found
