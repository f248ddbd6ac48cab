"""Which clauses of which texts an audit speaks to, what of them it shows, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """One clause.

    Attributes:
        text: the document it stands in, with its version.
        number: where.
        says: what it asks for, in its own words as far as these were seen.
        seen: where the wording was checked; or that it was not.
        shows: what of an audit speaks to it.
        leaves: what it asks for beyond that.
    """

    text: str
    number: str
    says: str
    seen: str
    shows: str
    leaves: str


CLAUSES: tuple[Clause, ...] = (
    Clause(
        text="OWASP AISVS 1.0",
        number="11.2.5 (level 3)",
        says=(
            "Verify that membership-inference attack simulations demonstrate that attack accuracy does not exceed "
            "random guessing on evaluated data."
        ),
        seen=(
            "checked in copies of version 1.0 (November 2026); drafts of 2025 and early 2026 have the clause as "
            "11.3.3, with 'does not meaningfully exceed random guessing on held-out data'"
        ),
        shows=(
            "Several attacks, with the strongest named and an interval that allows for the choice; the share that "
            "is picked out at a low rate of false accusations; a blind baseline that sees no model; the bound, if one "
            "was declared, with the outcome."
        ),
        leaves=(
            "That accuracy does not exceed guessing cannot be demonstrated by any number of records, only that it "
            "exceeds it by less than a declared bound. Other attacks, and variants that were not audited, may tell "
            "more."
        ),
    ),
    Clause(
        text="OWASP AISVS 1.0",
        number="11.2.4 (level 2)",
        says="Verify that training on sensitive datasets employs differentially-private optimization.",
        seen="checked in copies of version 1.0 (November 2026)",
        shows=(
            "The recipe of the training, where the manifest records it; with canaries a lower bound on epsilon, which "
            "can contradict a claimed one."
        ),
        leaves="Whether the training was differentially private, and its epsilon: that takes the training's own proof.",
    ),
    Clause(
        text="EDPB Opinion 28/2024 (17 December 2024)",
        number="executive summary, first question",
        says=(
            "For a model to be anonymous the likelihood of direct (including probabilistic) extraction of personal "
            "data of those whose data were used to develop it, and that of obtaining such data from queries, should "
            "be insignificant, taking into account all the means reasonably likely to be used by the controller or "
            "another person."
        ),
        seen="the executive summary, in reprints; paraphrased, the numbered paragraphs were not seen at the source",
        shows=(
            "How well membership of the audited records can be told, for all of them and for the most exposed few, by "
            "means listed with what each of them needs: the table of attackers."
        ),
        leaves=(
            "Extraction of texts and attributes, which is another attack; persons whose records were not audited; "
            "which means are reasonably likely; whether membership is personal data here. These are for the assessor."
        ),
    ),
    Clause(
        text="NIST SP 800-226 (March 2025)",
        number="unit of privacy",
        says=(
            "A guarantee is stated for a unit of privacy, such as a person, and not for a row where a person has "
            "several."
        ),
        seen="paraphrased from descriptions: the wording was not seen at the source",
        shows="The unit of the audit: what is counted as one, and how many records each has.",
        leaves="A differential-privacy guarantee: an audit measures, and guarantees nothing.",
    ),
)
