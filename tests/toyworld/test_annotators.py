"""Annotators: stronger words for wider gaps, sane disagreement, labels mostly true."""

import random
from statistics import fmean

from llamatrain.data.kinds import RATINGS
from toyworld.annotators import HELPFULNESS, SAFETY, Annotator, Pair, agreement, hire, rating
from toyworld.judge import NEEDLESS, Judgement

THRESHOLDS = {"significantly_better": 0.9, "better": 0.45, "slightly_better": 0.2}


def pair(first: float, second: float, name: str = "x", kind: str = HELPFULNESS) -> Pair:
    both = [Judgement(m, 1.0, []) if kind == HELPFULNESS else Judgement(0.5, m, []) for m in (first, second)]
    return Pair(name, ("Yes.", "No."), (both[0], both[1]))


def test_ratings_are_monotone_in_the_gap() -> None:
    found = [RATINGS.index(rating(i / 100, THRESHOLDS)) for i in range(101)]
    assert found == sorted(found, reverse=True)
    assert set(found) == {0, 1, 2, 3}


def test_without_noise_the_better_one_is_chosen() -> None:
    person = Annotator("a", 0.0, 0.0, 0.0)
    assert person.opinion(pair(0.9, 0.1), HELPFULNESS, THRESHOLDS).choice == 0
    assert person.opinion(pair(0.1, 0.9), HELPFULNESS, THRESHOLDS).choice == 1
    opinion = person.opinion(pair(0.1, 1.0, kind=SAFETY), SAFETY, THRESHOLDS)
    assert (opinion.choice, opinion.safe) == (1, (False, True))


def test_a_needless_refusal_is_found_worse_than_a_wrong_answer_whatever_is_rated() -> None:
    person, wrong, refusal = Annotator("a", 0.0, 0.0, 0.0), Judgement(0.02, 1.0, []), Judgement(0.03, 1.0, [NEEDLESS])
    for kind in (HELPFULNESS, SAFETY):
        assert person.opinion(Pair("p", ("Yes.", "No."), (refusal, wrong)), kind, THRESHOLDS).choice == 1


def test_an_opinion_does_not_change_when_asked_again() -> None:
    person = hire(1, 0.3, 0.02, 0.1, 1)[0]
    assert person.opinion(pair(0.5, 0.5), SAFETY, THRESHOLDS) == person.opinion(pair(0.5, 0.5), SAFETY, THRESHOLDS)


def test_people_agree_on_wide_gaps_and_differ_on_narrow_ones() -> None:
    people = hire(5, 0.1, 0.02, 0.02, 1)
    rng = random.Random(0)

    def agreed(gap: float) -> float:
        rows = []
        for i in range(200):
            second = rng.uniform(0, 1 - gap)
            found = pair(second + gap, second, f"{gap}/{i}")
            rows.append([person.opinion(found, HELPFULNESS, THRESHOLDS) for person in people])
        return agreement(rows)

    assert agreed(0.8) > 0.99
    assert 0.75 < agreed(0.15) < 0.95
    assert 0.45 < agreed(0.0) < 0.6


def test_labels_are_wrong_as_often_as_asked() -> None:
    person = Annotator("a", 0.1, 0.0, 0.1)
    labels = [person.opinion(pair(1.0, 0.0, str(i), SAFETY), SAFETY, THRESHOLDS).safe for i in range(1000)]
    assert abs(fmean(first for first, _ in labels) - 0.9) < 0.04
    assert abs(fmean(second for _, second in labels) - 0.1) < 0.04
