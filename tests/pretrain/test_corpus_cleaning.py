"""Cleaning and personal data: what is changed, what is found, and what is left alone."""

from __future__ import annotations

from collections import Counter

import pytest

from llamatrain.errors import UserError
from pretrain.corpus import examining
from pretrain.corpus.cleaning import clean
from pretrain.corpus.config import Cleaning
from pretrain.corpus.personal import find
from pretrain.corpus.reading import host

ALL = Cleaning(True, True, True, 0.0, 1000, 1)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("schÃ¶n, l’Ã©tÃ©", "schön, l’été"),
        ("“curly” ﬁne Ｗｉｄｅ &amp; kept", "“curly” ﬁne Ｗｉｄｅ &amp; kept"),
        ("e\u0301", "é"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("x\x00y\x1b[0m\ufeff", "xy[0m"),
        ("نمی\u200cخواهم 👩\u200d🚀", "نمی\u200cخواهم 👩\u200d🚀"),
        ("\tdef f():\n\t\treturn 1\n", "\tdef f():\n\t\treturn 1\n"),
        ("A story.\nThis site uses cookies to serve you.\nThe end.", "A story.\nThe end."),
        ("A story.\nPlease enable JavaScript to view this page.", "A story."),
        ("© 2021 The Baker Ltd. All rights reserved.\nBread rises.", "Bread rises."),
        ("She bakes cookies and we use cookies as money here, as the tale goes on and on. " * 3, None),
        ("He learned JavaScript.\nIt was fun.", None),
        ("Read more books!\nLoading the van took an hour.", None),
    ],
)
def test_texts_are_cleaned(text: str, cleaned: str | None) -> None:
    assert clean(text, ALL, Counter()) == (text if cleaned is None else cleaned)
    assert clean(text, Cleaning(False, False, False, 0.0, 1000, 1), Counter()) == text


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to anna.b+c@mail.example.org or bob@x.de.", ["emails", "emails"]),
        ("Call +49 30 1234567, (212) 555-0123 or 212-555-0187; in Paris 01 23 45 67 89.", ["phones"] * 4),
        ("From 192.0.2.17 and 2001:0db8:0000:0000:0000:ff00:0042:8329.", ["ip_addresses"] * 2),
        ("From 2001:db8::1, fe80::1ff:fe23:4567:890a and 2001:db8::192.0.2.33: all three.", ["ip_addresses"] * 3),
        ("At 10:30:45 std::vector a::b x[1::2] 00:1b:44:11:3a:b7 dead::beef 2001:db8::1::2.", []),
        ("Since 05/11 2023 on 01 45 67 89 10, 0171-2345678, 0711 1234 5678 or 0800-1234 567.", ["phones"] * 4),
        ("On 01-12-2023, 05/11 2023, 01/12/2023, 01.12.2023, 05 11 2023 and 01-12-23 at 10:05 2023.", []),
        ("Open 0800-1200 1300-1700, 0930 - 1215; trains 0605 0705 0805; 01-12-2023 0800-1200.", []),
        (
            "From 05/11 2023 06/11 2023 07/11 2023, 2023/05/11 2023/05/12, 1999-2003, 01/2023-05/2023, 0800-1200 +0200 1999.",
            [],
        ),
        (
            "ISBN 0-306-40615-2, 978 0 306 40615 7, ISSN 0378-5955, USD 1,299.00, 0.99-1.99, v01.12.2003-4, +0.1234567.",
            [],
        ),
        ("Card 4111 1111 1111 1111, or 378282246310005.", ["cards", "cards"]),
        ("Card 4111 1111 1111 1112.", []),
        ("IBAN DE89 3704 0044 0532 0130 00, GB82WEST12345698765432", ["national_numbers"] * 2),
        ("IBAN DE88370400440532013000", []),
        ("SSN 078-05-1120, not 666-12-3456.", ["national_numbers"]),
        ("DNI 12345678Z, NIE X1234567L, but not 12345678A.", ["national_numbers"] * 2),
        ("CPF 529.982.247-25, NHS 943 476 5919, NINO AB 12 34 56 C", ["national_numbers"] * 3),
        ("NIR 2 55 08 14 168 025 38", ["national_numbers"]),
        ("In 1999 and 2021, 12,345 of 300,000 paid 1.99; version 1.2.3.4.5; 10:30, 2021-10-04.", []),
        ("ISBN 978-3-16-148410-0, pi is 3.14159265358979, route 66, page 5-10.", []),
    ],
)
def test_personal_data_are_found(text: str, kinds: list[str]) -> None:
    assert sorted(kind for kind, _ in find(text)) == sorted(kinds), list(find(text))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://WWW.Example.org:8080/a?b", "example.org"),
        ("//user:secret@host.example", "host.example"),
        ("http://[::1]/x", "[::1]"),
        ("ftp://a.b.c.", "a.b.c"),
        ("mailto:a@b.c", None),
        ("no url", None),
    ],
)
def test_hosts(url: str, name: str | None) -> None:
    assert host(url) == name


def test_languages_are_told_or_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examining.identify("The quick brown fox jumps over the lazy dog near the river bank today.", 0.5) == "en"
    assert examining.identify("Der schnelle braune Fuchs springt heute über den faulen Hund am Flussufer.", 0.5) == "de"
    assert examining.identify("0x3f == {};", 1.0) == "unknown"
    examining._identifier.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    with pytest.raises(UserError, match=r"llamatrain\[language\]"):
        examining.identify("a", 0.5)
    examining._identifier.cache_clear()
